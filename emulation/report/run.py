"""A run as tables, picture and page: what was found of the bytes, and the replayed fetch. Knows results and drawing, no links."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from emulation.conformance.result import Result
from emulation.latency.replayed import TierReplay
from emulation.latency.setting import FetchSetting
from emulation.machines.bed import Bed
from emulation.report.page import PageTable, Section, write_page
from emulation.report.plots import Axes, draw_bars
from emulation.report.tables import Cell, make_table
from emulation.report.wording import span_of

MISMATCHES_SHOWN = 10  # of each store

_BYTES_COLUMNS = [
    "store", "written by", "fetched by", "rows", "bytes", "lines", "verified", "attention error", "label",
]  # fmt: skip
_COLUMNS = [
    "tier", "top-k us", "known", "x dram", "us per later step", "bytes", "lines", "prefix us", "prefix x dram", "prefix bytes",
    "n* by time", "label", "profile",
]  # fmt: skip


def bytes_table(results: Sequence[Result]) -> Table:
    """The check of each memory's bytes, for a terminal."""
    return make_table("bytes", _BYTES_COLUMNS, map(_bytes_cells, results))


def bytes_report(results: Sequence[Result]) -> list[Table | str]:
    """The verdict: the bytes, and what is wrong with them."""
    return [bytes_table(results), *(line for result in results for line in _wrong_lines(result))]


def write_report(
    folder: Path, bed: Bed, results: Sequence[Result], replays: Sequence[TierReplay], setting: FetchSetting
) -> Path:
    """Write `run.html`, the results and the relative latency with its picture, to `folder`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    hosts = ", ".join(f"{host.name} ({', '.join(host.stores.values())})" for host in bed.record.hosts)
    text = f"Bed {bed.topology.name}: {hosts}; accelerator {bed.record.accelerator}. {bed.topology.description}"
    bytes_section = Section("Bytes", [text], [PageTable(_BYTES_COLUMNS, [_bytes_cells(one) for one in results])])
    time_section = relative_latency_section(replays, setting, folder / "relative-latency.png")
    page = folder / "run.html"
    write_page(page, "cxlbed run", [bytes_section, time_section])
    return page


def relative_latency_table(replays: Sequence[TierReplay], setting: FetchSetting) -> Table:
    """The table for a terminal."""
    return make_table("fetch time by tier", _COLUMNS, map(_cells, replays), f"{_note(replays)}\n{setting.words()}")


def relative_latency_section(replays: Sequence[TierReplay], setting: FetchSetting, picture: Path) -> Section:
    """A section of a page with the table and the picture, which is drawn into `picture` (.svg or .png)."""
    draw_relative_latency(picture, replays)
    table = PageTable(_COLUMNS, [_cells(one) for one in replays])
    return Section("Relative latency", [_note(replays), *setting.words().splitlines()], [table], [picture])


def draw_relative_latency(picture: Path, replays: Sequence[TierReplay]) -> None:
    """Bars: the recorded top-k fetches and one whole prefix, by tier, in ms."""
    series = {
        "top-k misses of all recorded steps": [one.topk_us / 1e3 for one in replays],
        "whole prefix, once": [one.prefix_us / 1e3 for one in replays],
    }
    axes = Axes("fetch time by tier (modelled)", "", "ms", log_y=True)
    draw_bars(picture, axes, [f"{one.tier}\n{one.profile}" for one in replays], series)


def _wrong_lines(result: Result) -> list[str]:
    lines = [f"WRONG {result.place.name}: {mismatch}" for mismatch in result.mismatches[:MISMATCHES_SHOWN]]
    if len(result.mismatches) > MISMATCHES_SHOWN:
        lines.append(f"WRONG {result.place.name}: and {len(result.mismatches) - MISMATCHES_SHOWN} more")
    return lines


def _bytes_cells(one: Result) -> list[Cell]:
    place = one.place
    return [
        place.name, f"{place.writer} {place.writer_store}", f"{place.reader} {place.reader_store}", one.fetched_rows,
        one.fetched_bytes, one.fetched_lines, f"{one.entries_right:,} of {one.entries:,} entries", one.attention_error,
        str(one.label),
    ]  # fmt: skip


def _cells(one: TierReplay) -> list[Cell]:
    return [
        one.tier, one.topk_us, span_of(one.intervals["topk_us"].low, one.intervals["topk_us"].high), one.ratio_to_dram,
        one.step_us, one.num_bytes, one.lines, one.prefix_us,
        one.prefix_ratio_to_dram, one.prefix_bytes, one.break_even_steps_by_time, one.label, one.profile,
    ]  # fmt: skip


def _note(replays: Sequence[TierReplay]) -> str:
    steps = replays[0].break_even_steps
    when = "never, as the later steps missed nothing" if steps is None else f"after n* = {steps:,.0f} steps"
    return (
        "Top-k fetches the recorded misses, layer by layer; the prefix is fetched whole, once. By bytes, top-k has moved "
        f"more than the prefix {when}; by time, after the steps in the column. Fetching alone, no compute."
    )

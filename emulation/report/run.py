"""The replayed fetch as table, picture and section of a page. Knows TierReplay and drawing, no links."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from emulation.latency.replayed import TierReplay
from emulation.report.page import PageTable, Section
from emulation.report.plots import Axes, draw_bars
from emulation.report.tables import Cell, make_table

_COLUMNS = [
    "tier", "top-k us", "x dram", "us per later step", "bytes", "lines", "prefix us", "prefix x dram", "prefix bytes",
    "n* by time", "label", "profile",
]  # fmt: skip


def relative_latency_table(replays: Sequence[TierReplay]) -> Table:
    """The table for a terminal."""
    return make_table("fetch time by tier", _COLUMNS, map(_cells, replays), _note(replays))


def relative_latency_section(replays: Sequence[TierReplay], picture: Path) -> Section:
    """A section of a page with the table and the picture, which is drawn into `picture` (.svg or .png)."""
    draw_relative_latency(picture, replays)
    table = PageTable(_COLUMNS, [_cells(one) for one in replays])
    return Section("Relative latency", [_note(replays)], [table], [picture])


def draw_relative_latency(picture: Path, replays: Sequence[TierReplay]) -> None:
    """Bars: the recorded top-k fetches and one whole prefix, by tier, in ms."""
    series = {
        "top-k misses of all recorded steps": [one.topk_us / 1e3 for one in replays],
        "whole prefix, once": [one.prefix_us / 1e3 for one in replays],
    }
    axes = Axes("fetch time by tier (modelled)", "", "ms", log_y=True)
    draw_bars(picture, axes, [f"{one.tier}\n{one.profile}" for one in replays], series)


def _cells(one: TierReplay) -> list[Cell]:
    return [
        one.tier, one.topk_us, one.ratio_to_dram, one.step_us, one.num_bytes, one.lines, one.prefix_us,
        one.prefix_ratio_to_dram, one.prefix_bytes, one.break_even_steps_by_time, one.label, one.profile,
    ]  # fmt: skip


def _note(replays: Sequence[TierReplay]) -> str:
    steps = replays[0].break_even_steps
    when = "never, as the later steps missed nothing" if steps is None else f"after n* = {steps:,.0f} steps"
    return (
        "Top-k fetches the recorded misses, layer by layer; the prefix is fetched whole, once. By bytes, top-k has moved "
        f"more than the prefix {when}; by time, after the steps in the column. Fetching alone, no compute."
    )

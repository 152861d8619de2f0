"""Tables, pictures and words for `cxlbed serve`. Knows records; runs nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from emulation.report.plots import Axes, Series, band, draw_lines, draw_stacks
from emulation.report.tables import Cell, make_table
from emulation.report.wording import significant, span_of
from emulation.serving.records import ScenarioRecord, ServingRecord
from emulation.serving.spec import ENGINES, PLACEMENTS
from emulation.timing.interval import Interval
from emulation.timing.tiers import SERVED

COLUMNS = ("tier", "context", "conc.", "out", "srv.", "dev.", "buffer", "tokens/s", "known",
           "TTFT s", "TBT ms", "p99 ITL ms", "hit rate",
           "busiest link", "load", "note")  # fmt: skip
SETTING_NAMES = {
    "context_tokens": "context",
    "concurrency": "concurrency",
    "output_tokens": "output",
    "devices": "devices",
    "servers": "servers",
    "gpus": "GPUs",
    "hot_buffer": "buffer",
    "profile": "profile",
    "engine": "engine",
    "placement": "placement",
    "round": "round",
}


def records_table(records: Sequence[ServingRecord]) -> Table:
    """One line per record."""
    caption = f"known: interval of tokens/s; load: of the busiest link, over the whole run\n{setting_words(records)}"
    if not any(record.slo_ttft_ms or record.slo_tbt_ms for record in records):
        return make_table("serving, modelled", COLUMNS, map(_row, records), caption=caption)
    rows = ((*_row(record), record.goodput, _span_words(record, "goodput")) for record in records)
    return make_table(
        "serving, modelled", (*COLUMNS, "goodput/s", "known"), rows, caption=f"{caption}\n{_slo(records)}"
    )


def _span_words(record: ServingRecord, figure: str) -> str:
    interval = record.intervals.get(figure)
    return span_of(interval.low, interval.high) if interval else "-"


def _slo(records: Sequence[ServingRecord]) -> str:
    """What goodput counts."""
    bounds = (
        (records[0].slo_ttft_ms, "ms to the first token"),
        (records[0].slo_tbt_ms, "ms per later token, on average"),
    )
    words = " and ".join(f"{significant(bound)} {unit}" for bound, unit in bounds if bound)
    return f"goodput: requests per second that take at most {words}"


def setting_words(records: Sequence[ScenarioRecord]) -> str:
    """What the figures are of, and what the model was fitted to."""
    hardware = dict.fromkeys(f"{record.model} on {record.gpus} {record.gpu} per server" for record in records)
    cards = dict.fromkeys(
        f"RDMA as {record.rdma!r}, {record.nics} NICs of {significant(record.nic_gbit)} Gb/s per server"
        for record in records
        if record.nics and record.nic_gbit
    )
    fitted = dict.fromkeys(f"fitted to {record.fit_range.words()}" for record in records)
    outside = dict.fromkeys(f"outside the fit: {word}" for record in records for word in record.outside_fit)
    return "\n".join((*hardware, *cards, *fitted, *outside))


def draw_records(
    folder: Path, records: Sequence[ServingRecord], latencies: Sequence[Mapping[str, list[float]]]
) -> list[Path]:
    """Draw what the records allow: throughput by context, by concurrency, latency distribution, where the time goes.
    latencies: for each record its distributions, name -> ms at even steps. Returns the files written."""
    done = [record for record in records if record.fits]
    written = []
    for key, words in (("context_tokens", "context, tokens"), ("concurrency", "concurrency")):
        if len({getattr(record, key) for record in done}) > 1:
            path = folder / f"throughput_by_{key.removesuffix('_tokens')}.svg"
            draw_lines(path, Axes("Throughput", words, "output tokens per second", log_x=True), _lines(done, key))
            written.append(path)
    if done:
        distributions = [latency for record, latency in zip(records, latencies, strict=True) if record.fits]
        written.append(_draw_distributions(folder / "latency_cdf.svg", done, distributions))
        written.append(_draw_time(folder / "where_the_time_goes.svg", done))
    return written


def _tier_and_engine(record: ServingRecord) -> str:
    """The tier, and the engine and placement where they are not the usual ones."""
    usual = (ENGINES[0], PLACEMENTS[0])
    return ", ".join((record.tier, *(word for word in (record.engine, record.placement) if word not in usual)))


def _row(record: ServingRecord) -> tuple[Cell, ...]:
    busiest, load = max(record.utilisation_by_link.items(), key=lambda link: link[1], default=("", None))
    return (
        _tier_and_engine(record),
        record.context_tokens,
        record.concurrency,
        record.output_tokens,
        record.servers,
        record.devices,
        record.hot_buffer,
        record.output_throughput,
        _span_words(record, "output_throughput"),
        None if record.mean_ttft_ms is None else record.mean_ttft_ms / 1e3,
        record.mean_tpot_ms,
        record.p99_itl_ms,
        record.hit_rate,
        busiest,
        load,
        record.note,
    )


def _names(records: Sequence[ServingRecord], without: str = "") -> list[str]:
    """A short name for each record: its tier, and the settings in which records of one tier differ, less one."""
    varied = [key for key in SETTING_NAMES if key != without and _differ(records, key)]
    return [
        ", ".join(
            [
                SERVED[record.tier],
                *(f"{SETTING_NAMES[key]} {value}" for key in varied if (value := getattr(record, key))),
            ]
        )
        for record in records
    ]


def _differ(records: Sequence[ServingRecord], key: str) -> bool:
    values = {(record.tier, getattr(record, key)) for record in records}
    return len(values) > len({tier for tier, _ in values})


def _lines(records: Sequence[ServingRecord], key: str) -> list[Series]:
    """Throughput along `key`, with its bands."""
    lines: dict[str, list[tuple[float, Interval]]] = {}
    for name, record in zip(_names(records, without=key), records, strict=True):
        value = record.output_throughput or 0.0
        interval = record.intervals.get("output_throughput", Interval(value, value, value))
        lines.setdefault(name, []).append((getattr(record, key), interval))
    return [band(name, *zip(*sorted(points, key=_first), strict=True)) for name, points in lines.items()]


def _first(point: tuple[float, Interval]) -> float:
    return point[0]


def _draw_distributions(
    path: Path, records: Sequence[ServingRecord], latencies: Sequence[Mapping[str, list[float]]]
) -> Path:
    series = []
    for name, latency in zip(_names(records), latencies, strict=True):
        at_ms = latency["e2e_latency"]
        shares = [number / (len(at_ms) - 1) for number in range(len(at_ms))]
        series.append(Series(name, [value / 1e3 for value in at_ms], shares))
    draw_lines(path, Axes("End-to-end latency", "s", "share of requests that took no longer", log_x=True), series)
    return path


def _draw_time(path: Path, records: Sequence[ServingRecord]) -> Path:
    states = list(records[0].seconds_a_request)
    spent = {state: [record.seconds_a_request[state] for record in records] for state in states}
    draw_stacks(path, Axes("Where a request's time goes", "", "s per request"), _names(records), spent)
    return path

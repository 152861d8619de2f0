"""Tables, pictures and words for `cxlbed serve`. Knows records and comparisons; runs nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from emulation.report.plots import Axes, Series, draw_lines, draw_stacks
from emulation.report.tables import Cell, make_table
from emulation.report.wording import significant
from emulation.serving.compare import RIVALS, Comparison, TippingPoint
from emulation.serving.records import ComparisonRecord, ConcurrencyPoint, ScenarioRecord, ServingRecord
from sac_runtime.label import Label

COLUMNS = ("tier", "context", "conc.", "out", "srv.", "dev.", "buffer", "tokens/s", "TTFT s", "TBT ms", "p99 ITL ms", "hit rate",
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
    "round": "round",
}
TIER_NAMES = {"hbm": "HBM only", "dram": "local DRAM", "cxl": "CXL pool", "rdma": "RDMA prefetch"}


def records_table(records: Sequence[ServingRecord]) -> Table:
    """One line per record."""
    caption = f"load: of the busiest link, over the whole run\n{setting_words(records)}"
    return make_table("serving, modelled", COLUMNS, map(_row, records), caption=caption)


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


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Throughput by concurrency, and CXL's lead by latency and bandwidth."""
    context = comparison.setting.context_tokens
    by_concurrency = make_table(
        f"{context} tokens of context: output tokens per second, modelled",
        ("concurrency", *TIER_NAMES.values()),
        (
            (concurrency, *(comparison.throughputs[tier][place] for tier in TIER_NAMES))
            for place, concurrency in enumerate(comparison.concurrencies)
        ),
    )
    grid = make_table(
        f"{context} tokens, concurrency {comparison.setting.concurrency}: CXL's throughput over the others'",
        ("CXL latency ns", "device GB/s", "over RDMA", "over HBM only", "of DRAM"),
        (
            (
                point.latency_ns,
                point.device_bytes_per_ns,
                point.ratios["rdma"],
                point.ratios["hbm"],
                point.ratios["dram"],
            )
            for point in comparison.grid
        ),
    )
    return [by_concurrency, grid]


def verdict(comparison: Comparison) -> list[str]:
    """The answer in sentences."""
    setting = comparison.setting
    where = f"{setting.context_tokens} tokens of context, concurrency {setting.concurrency}"
    sentences = [
        f"{where}: CXL serves {comparison.ratio('rdma'):.2f}x the tokens of RDMA prefetch, {comparison.ratio('hbm'):.2f}x "
        f"those of HBM only, {comparison.ratio('dram'):.0%} of local DRAM's.",
        _crossover_words(comparison),
        _break_even_words(comparison),
        *(_range_words(comparison, rival) for rival in RIVALS),
    ]
    return sentences + [_tipping_words(point) for point in comparison.tipping_points]


def comparison_record(comparison: Comparison) -> ComparisonRecord:
    """A comparison for its JSON, its words included."""
    setting = comparison.setting
    return ComparisonRecord(
        context_tokens=setting.context_tokens,
        concurrency=setting.concurrency,
        output_tokens=setting.output_tokens,
        label=Label.MODELLED,
        ratios={tier: comparison.ratio(tier) for tier in ("rdma", "hbm", "dram")},
        by_concurrency=[
            ConcurrencyPoint(concurrency, **{tier: figures[place] for tier, figures in comparison.throughputs.items()})
            for place, concurrency in enumerate(comparison.concurrencies)
        ],
        hbm_crossover_concurrency=comparison.hbm_crossover,
        break_even_steps=comparison.break_even_steps,
        grid=comparison.grid,
        flips=comparison.tipping_points,
        verdict=verdict(comparison),
    )


def _row(record: ServingRecord) -> tuple[Cell, ...]:
    busiest, load = max(record.utilisation_by_link.items(), key=lambda link: link[1], default=("", None))
    return (
        record.tier,
        record.context_tokens,
        record.concurrency,
        record.output_tokens,
        record.servers,
        record.devices,
        record.hot_buffer,
        record.output_throughput,
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
                TIER_NAMES[record.tier],
                *(f"{SETTING_NAMES[key]} {value}" for key in varied if (value := getattr(record, key))),
            ]
        )
        for record in records
    ]


def _differ(records: Sequence[ServingRecord], key: str) -> bool:
    values = {(record.tier, getattr(record, key)) for record in records}
    return len(values) > len({tier for tier, _ in values})


def _lines(records: Sequence[ServingRecord], key: str) -> list[Series]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, record in zip(_names(records, without=key), records, strict=True):
        lines.setdefault(name, []).append((getattr(record, key), record.output_throughput or 0.0))
    return [
        Series(name, [x for x, _ in sorted(points)], [y for _, y in sorted(points)]) for name, points in lines.items()
    ]


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


def _crossover_words(comparison: Comparison) -> str:
    if comparison.hbm_crossover is None:
        return (
            f"HBM only, prefixes given to it for nothing, stays ahead up to concurrency {comparison.concurrencies[-1]}."
        )
    return (
        f"CXL stays ahead of HBM only from concurrency {comparison.hbm_crossover} on, as far as looked at "
        f"({comparison.concurrencies[-1]}); below, HBM only wins since it fetches nothing."
        if comparison.hbm_crossover > comparison.concurrencies[0]
        else "CXL is ahead of HBM only at every concurrency looked at."
    )


def _break_even_words(comparison: Comparison) -> str:
    if comparison.break_even_steps is None:
        return "n*: top-k fetches never move as much as one full prefix within as many steps as the context has tokens."
    return f"n*: after {comparison.break_even_steps} decode steps top-k fetches have moved more than one full prefix."


def _tipping_words(point: TippingPoint) -> str:
    rival = TIER_NAMES[point.rival]
    name, unit = ("device bandwidth", "GB/s") if point.quantity == "device_bytes_per_ns" else ("CXL latency", "ns")
    at = f" at {point.latency_ns} ns" if point.latency_ns else ""
    if point.at is None:
        return f"Against {rival}: {'ahead' if point.ahead_at_low else 'behind'} at any {name}{at}."
    ahead, behind = ("below", "above") if point.ahead_at_low else ("above", "below")
    return f"Against {rival}: ahead {ahead} a {name} of {significant(point.at)} {unit}{at}, behind {behind} it."


def _range_words(comparison: Comparison, rival: str) -> str:
    ratios = [point.ratios[rival] for point in comparison.grid]
    latencies = [point.latency_ns for point in comparison.grid]
    rates = [point.device_bytes_per_ns for point in comparison.grid]
    where = "everywhere" if min(ratios) > 1 else "nowhere" if max(ratios) <= 1 else "in a part of it"
    return (
        f"Over {min(latencies)} to {max(latencies)} ns and {significant(min(rates))} to {significant(max(rates))} GB/s per "
        f"device CXL is ahead of {TIER_NAMES[rival]} {where}: {min(ratios):.2f}x to {max(ratios):.2f}x."
    )


def draw_comparison(folder: Path, comparison: Comparison) -> Path:
    """Throughput by concurrency of the four tiers, the crossover with HBM only marked. Returns the file."""
    path = folder / f"compare_{comparison.setting.context_tokens}.svg"
    axes = Axes(
        f"{comparison.setting.context_tokens} tokens of context", "concurrency", "output tokens per second", log_x=True
    )
    series = [Series(name, comparison.concurrencies, comparison.throughputs[tier]) for tier, name in TIER_NAMES.items()]
    crossover = comparison.hbm_crossover
    draw_lines(path, axes, series, marks={"ahead of HBM only": crossover} if crossover else None)
    return path

"""Tables and pictures of `cxlbed latency`. Knows times as the experiment gives them; measures nothing."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from emulation.calibration.readings import readings
from emulation.latency.injected import BareTime, StoreTime
from emulation.latency.modelled import EntryTime, PrefixTime
from emulation.latency.records import TraceDocument
from emulation.latency.setting import FetchSetting
from emulation.report.plots import Axes, Series, draw_lines
from emulation.report.tables import make_table
from emulation.report.wording import span_of
from emulation.timing.clock import InjectorSummary
from emulation.timing.profile import Profile
from emulation.timing.tiers import FIG5_PROFILES, PREFIX_ENGINE


def profiles_table(profiles: Sequence[Profile]) -> Table:
    """One line per profile."""
    columns = ["profile", "tier", "read by", "latency ns", "device GB/s", "summary"]
    rows = [
        (p.name, p.tier, p.read_by, p.read_latency_ns, p.num_devices * p.device.read_bytes_per_ns, p.summary)
        for p in profiles
    ]
    note = "NAME@gpu reads a cpu's tier over PCIe; more profiles by path or from the folders in $CXLBED_PROFILES"
    return make_table("timing profiles", columns, rows, note)


def entries_table(times: Sequence[EntryTime], rows: str, setting: FetchSetting) -> Table:
    """One line per profile and number of entries. rows: the name of their row format."""
    columns = ["tier", "entries", "us", "known", "x dram", "us, all profiles", "published us", "read fresh us", "label",
               "profile"]  # fmt: skip
    cells = [
        (
            t.tier,
            t.entries,
            t.us,
            span_of(t.interval.low, t.interval.high),
            t.ratio_to_dram,
            span_of(t.us_low, t.us_high),
            t.publish_us,
            t.fresh_us,
            t.label,
            t.profile,
        )
        for t in times
    ]
    note = (
        "known: over profiles of one subject, and the fit's errors; all profiles: over every profile of the tier for this reader\n"
        "published, read fresh: as many entries written until other hosts see them, read so that theirs are seen, by a CPU's "
        f"non-temporal stores and clflush (second-hand)\n{setting.words()}"
    )
    return make_table(f"fetch of n random {rows} entries, one reader alone", columns, cells, note)


def prefixes_table(times: Sequence[PrefixTime], setting: FetchSetting) -> Table:
    """One line per profile, context and concurrency."""
    columns = ["tier", "context", "concurrency", "mean s", "known", "label", "profile"]
    cells = [
        (
            t.tier,
            t.context_tokens,
            t.concurrency,
            t.mean_s,
            span_of(t.interval.low, t.interval.high),
            t.label,
            t.profile,
        )
        for t in times
    ]
    title = "fetch of whole prefixes, all begun at once behind one adapter"
    return make_table(title, columns, cells, setting.words())


def trace_table(document: TraceDocument) -> Table:
    """One line per tier or profile: what hot buffers missed of a trace, beside one fetch of the whole prefix."""
    columns = [
        "tier",
        "top-k us",
        "known",
        "x dram",
        "us per later step",
        "prefix us",
        "n* by time",
        "label",
        "profile",
    ]
    cells = [
        (
            t.tier,
            t.topk_us,
            span_of(t.intervals["topk_us"].low, t.intervals["topk_us"].high),
            t.ratio_to_dram,
            t.step_us,
            t.prefix_us,
            t.break_even_steps_by_time,
            t.label,
            t.profile,
        )
        for t in document.records
    ]
    title = (
        f"{document.trace}: {document.steps} steps of {document.requests} request(s) and {document.layers} layers, top-k "
        f"{document.top_k}, hot buffers of {document.hot_buffer} slots miss {document.miss_rate:.1%} later"
    )
    return make_table(title, columns, cells, f"{document.source}\n{document.setting.words()}")


def injected_table(times: Sequence[StoreTime], error: InjectorSummary, store: str, setting: FetchSetting) -> Table:
    """One line per profile and number of entries; the caption tells the injector's own error."""
    columns = ["tier", "entries", "us", "x dram", "modelled us", "not honoured", "label", "profile"]
    cells = [
        (t.tier, t.entries, t.us, t.ratio_to_dram, t.modelled_us, f"{t.late} of {t.repeats}", t.label, t.profile)
        for t in times
    ]
    note = (
        f"injector's own error: median {error.median_error:.2%}, p99 {error.p99_error:.2%} over "
        f"{error.num_honoured} stalls; {error.num_late} not honoured, the real access being slower\n{setting.words()}"
    )
    return make_table(f"fetch of n random entries through {store}, bytes checked", columns, cells, note)


def bare_table(times: Sequence[BareTime], store: str) -> Table:
    """One line per number of entries."""
    cells = [(t.entries, t.us, t.label) for t in times]
    title = f"fetch of n random entries from {store} as it is, bytes checked"
    return make_table(title, ["entries", "us", "label"], cells)


def draw_entries(times: Sequence[EntryTime], rows: str, plot: Path) -> None:
    """Lines by profile with their tiers' ranges, and the paper's readings where they are of the same rows."""

    series = []
    for name in dict.fromkeys(t.profile for t in times):
        of = [t for t in times if t.profile == name]
        ranges = [t.us_low for t in of], [t.us_high for t in of]
        series.append(Series(f"{of[0].tier}: {name}", [t.entries for t in of], [t.us for t in of], *ranges))
    for tier, name in FIG5_PROFILES.items():
        if rows == "bf16" and any(t.profile == name for t in times):
            read = [(int(r["entries"]), float(r["us"])) for r in readings("fig5_gpu_fetch.csv") if r["tier"] == tier]
            series.append(Series(f"{tier}: SAC Fig 5", [n for n, _ in read], [us for _, us in read], dots=True))
    title = "fetch of random entries (modelled; bands: all profiles of the tier)"
    draw_lines(plot, Axes(title, "entries", "us", log_x=True, log_y=True), series)


def draw_prefixes(times: Sequence[PrefixTime], plot: Path) -> None:
    """Lines by profile and context, and the paper's readings of its RDMA engine."""

    series = []
    for name, tokens in dict.fromkeys((t.profile, t.context_tokens) for t in times):
        of = [t for t in times if (t.profile, t.context_tokens) == (name, tokens)]
        series.append(Series(f"{name}, {tokens:,} tokens", [t.concurrency for t in of], [t.mean_s for t in of]))
    for tokens in dict.fromkeys(t.context_tokens for t in times if t.profile == PREFIX_ENGINE):
        rows = [r for r in readings("fig3_rdma_prefix.csv") if int(r["context_tokens"]) == tokens]
        x, y = [int(r["concurrency"]) for r in rows], [float(r["mean_s"]) for r in rows]
        series.append(Series(f"SAC Fig 3, {tokens:,} tokens", x, y, dots=True))
    axes = Axes("fetch of whole prefixes (modelled)", "concurrency", "mean s", log_x=True, log_y=True)
    draw_lines(plot, axes, series)

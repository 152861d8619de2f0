"""`cxlbed latency`: fetch time by tier, modelled or on a real store."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emulation.cli.options import whole_numbers
from emulation.cli.output import JsonOption, show, write_json
from emulation.errors import InputError
from sac_runtime.label import Label
from sac_runtime.memory.spec import STORE_NAMES

if TYPE_CHECKING:
    from emulation.latency.modelled import EntryTime, PrefixTime
    from emulation.timing.profile import Profile
    from sac_runtime.memory.mapped import MappedStore
    from sac_runtime.rows.layout import KvLayout

DEFAULT_TIERS = "dram,cxl,rdma"


class Reader(StrEnum):
    """Who fetches."""

    CPU = "cpu"  # one core
    GPU = "gpu"  # over PCIe


class Rows(StrEnum):
    """Row formats of the runtime."""

    BF16 = "bf16"  # 1152 B
    FP8 = "fp8"  # 704 B of lines for 656 B of payload


FigureOption = Annotated[int, typer.Option("--figure", help="5: n random entries. 3: whole prefixes by concurrency.")]
TierOption = Annotated[str, typer.Option("--tier", help="Tiers, comma-separated: dram, numa, cxl, rdma.")]
ReaderOption = Annotated[
    Reader | None,
    typer.Option(
        "--reader", help="Who fetches; picks each tier's profile. Without it the GPU, with --store a CPU core."
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", help="Profiles instead of tiers, comma-separated: names, NAME@gpu, or .yaml files."),
]
ListOption = Annotated[bool, typer.Option("--list", help="List the profiles and end.")]
EntriesOption = Annotated[str | None, typer.Option("--entries", help="Numbers of entries, comma-separated.")]
RowsOption = Annotated[Rows, typer.Option("--rows", help="Row format of an entry.")]
ContextOption = Annotated[str | None, typer.Option("--context", help="Prefix lengths in tokens (figure 3).")]
ConcurrencyOption = Annotated[str | None, typer.Option("--concurrency", help="Fetches at once (figure 3).")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", help=f"Move real bytes: {STORE_NAMES}. A shared file must be new; a device is overwritten."
    ),
]
BareOption = Annotated[
    Label | None, typer.Option("--bare", help="With --store: time it as it is; numa-measured or hardware.")
]
StoreRowsOption = Annotated[int, typer.Option("--store-rows", help="Rows of that store.")]
RepeatsOption = Annotated[int, typer.Option("--repeats", help="Fetches of each number of entries from that store.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", help="Draw a picture: .png, .svg or .pdf.")]


def latency(
    figure: FigureOption = 5,
    tier: TierOption = DEFAULT_TIERS,
    reader: ReaderOption = None,
    profile: ProfileOption = None,
    entries: EntriesOption = None,
    rows: RowsOption = Rows.BF16,
    context: ContextOption = None,
    concurrency: ConcurrencyOption = None,
    store: StoreOption = None,
    bare: BareOption = None,
    store_rows: StoreRowsOption = 1 << 17,
    repeats: RepeatsOption = 15,
    list_profiles: ListOption = False,
    plot: PlotOption = None,
    json: JsonOption = None,
) -> None:
    """Fetch time by tier with its ratio to local DRAM: n random entries (as the SAC paper's Fig 5), or whole prefixes by
    concurrency (Fig 3). Modelled on a virtual clock; with --store, real bytes and stalls on the wall clock."""
    if list_profiles:
        _list(json)
    elif figure == 3:
        _refuse_store(store or bare, "moves entries, not prefixes; use it with --figure 5")
        _prefixes(_prefix_profiles(profile, tier), context, concurrency, plot, json)
    elif figure != 5:
        raise InputError(f"latency: figure={figure} must be 5 (entries) or 3 (prefixes)")
    elif store is None:
        _refuse_store(bare, "times a store as it is; give --store too")
        _entries(_profiles(profile, tier, reader or Reader.GPU), _entry_counts(entries), rows, plot, json)
    elif bare is None:
        profiles = _profiles(profile, tier, reader or Reader.CPU)
        _injected(profiles, _entry_counts(entries), _Source(store, rows, store_rows, repeats), json)
    else:
        _bare(bare, _entry_counts(entries), _Source(store, rows, store_rows, repeats), json)


@dataclass(frozen=True)
class _Source:
    """The store that real bytes come from."""

    spec: str
    rows: Rows
    num_rows: int
    repeats: int

    def open(self) -> AbstractContextManager["MappedStore"]:
        from emulation.latency.injected import filled_store

        if self.repeats < 1:
            raise InputError(f"latency: repeats={self.repeats} must be at least 1")
        return filled_store(self.spec, _layout(self.rows), self.num_rows)


def _list(json: Path | None) -> None:
    """Show every profile; as JSON with all figures and their sources."""
    from emulation.latency.records import ProfilesDocument
    from emulation.report.tables import make_table
    from emulation.timing.profile import load_profile
    from emulation.timing.profile_folders import profile_names

    profiles = [load_profile(name) for name in profile_names()]
    write_json(json, asdict(ProfilesDocument(profiles)))
    columns = ["profile", "tier", "read by", "latency ns", "device GB/s", "summary"]
    rows = [
        (p.name, p.tier, p.read_by, p.read_latency_ns, p.num_devices * p.device.read_bytes_per_ns, p.summary)
        for p in profiles
    ]
    note = "NAME@gpu reads a cpu's tier over PCIe; more profiles by path or from the folders in $CXLBED_PROFILES"
    show(json, make_table("timing profiles", columns, rows, note))


def _entries(profiles: "list[Profile]", counts: list[int], rows: Rows, plot: Path | None, json: Path | None) -> None:
    from emulation.latency.modelled import entry_times
    from emulation.latency.records import EntryDocument
    from emulation.report.tables import make_table

    times = entry_times(profiles, counts, _line_bytes(rows))
    write_json(json, asdict(EntryDocument(5, rows, times)))
    if plot is not None:
        _plot_entries(times, rows, plot)
    columns = ["tier", "entries", "us", "x dram", "us, all profiles", "label", "profile"]
    cells = [(t.tier, t.entries, t.us, t.ratio_to_dram, _span(t.us_low, t.us_high), t.label, t.profile) for t in times]
    note = "all profiles: the least and the most over every profile of the tier for this reader"
    show(json, make_table(f"fetch of n random {rows} entries, one reader alone", columns, cells, note))


def _prefixes(
    profiles: "list[Profile]", context: str | None, concurrency: str | None, plot: Path | None, json: Path | None
) -> None:
    from emulation.latency.modelled import FIG3_CONCURRENCIES, FIG3_CONTEXTS, prefix_times
    from emulation.latency.records import PrefixDocument
    from emulation.report.tables import make_table

    contexts = _numbers("context", context, FIG3_CONTEXTS)
    times = prefix_times(profiles, contexts, _numbers("concurrency", concurrency, FIG3_CONCURRENCIES))
    write_json(json, asdict(PrefixDocument(3, times)))
    if plot is not None:
        _plot_prefixes(times, plot)
    columns = ["tier", "context", "concurrency", "mean s", "label", "profile"]
    cells = [(t.tier, t.context_tokens, t.concurrency, t.mean_s, t.label, t.profile) for t in times]
    show(json, make_table("fetch of whole prefixes, all begun at once behind one adapter", columns, cells))


def _injected(profiles: "list[Profile]", counts: list[int], source: "_Source", json: Path | None) -> None:
    from emulation.latency.injected import injected_times
    from emulation.latency.records import InjectedDocument
    from emulation.report.tables import make_table

    with source.open() as store:
        times, error = injected_times(store, profiles, counts, source.repeats)
    write_json(json, asdict(InjectedDocument(5, source.spec, times, error)))
    columns = ["tier", "entries", "us", "x dram", "modelled us", "not honoured", "label", "profile"]
    cells = [
        (t.tier, t.entries, t.us, t.ratio_to_dram, t.modelled_us, f"{t.late} of {t.repeats}", t.label, t.profile)
        for t in times
    ]
    note = (
        f"injector's own error: median {error.median_error:.2%}, p99 {error.p99_error:.2%} over "
        f"{error.num_honoured} stalls; {error.num_late} not honoured, the real access being slower"
    )
    show(json, make_table(f"fetch of n random entries through {source.spec}, bytes checked", columns, cells, note))


def _bare(claimed: Label, counts: list[int], source: "_Source", json: Path | None) -> None:
    from emulation.latency.injected import bare_times, measured_label
    from emulation.latency.records import BareDocument
    from emulation.report.tables import make_table

    with source.open() as store:
        times = bare_times(store, measured_label(claimed, source.spec), counts, source.repeats)
    write_json(json, asdict(BareDocument(5, source.spec, times)))
    cells = [(t.entries, t.us, t.label) for t in times]
    title = f"fetch of n random entries from {source.spec} as it is, bytes checked"
    show(json, make_table(title, ["entries", "us", "label"], cells))


def _plot_entries(times: "list[EntryTime]", rows: Rows, plot: Path) -> None:
    """Lines by profile with their tiers' ranges, and the paper's readings where they are of the same rows."""
    from emulation.calibration.fetch import FIG5_PROFILES
    from emulation.calibration.readings import readings
    from emulation.report.plots import Axes, Series, draw_lines

    series = []
    for name in dict.fromkeys(t.profile for t in times):
        of = [t for t in times if t.profile == name]
        ranges = [t.us_low for t in of], [t.us_high for t in of]
        series.append(Series(f"{of[0].tier}: {name}", [t.entries for t in of], [t.us for t in of], *ranges))
    for tier, name in FIG5_PROFILES.items():
        if rows is Rows.BF16 and any(t.profile == name for t in times):
            read = [(int(r["entries"]), float(r["us"])) for r in readings("fig5_gpu_fetch.csv") if r["tier"] == tier]
            series.append(Series(f"{tier}: SAC Fig 5", [n for n, _ in read], [us for _, us in read], dots=True))
    title = "fetch of random entries (modelled; bands: all profiles of the tier)"
    draw_lines(plot, Axes(title, "entries", "us", log_x=True, log_y=True), series)


def _plot_prefixes(times: "list[PrefixTime]", plot: Path) -> None:
    """Lines by profile and context, and the paper's readings of its RDMA engine."""
    from emulation.calibration.fetch import FIG3_PROFILE
    from emulation.calibration.readings import readings
    from emulation.report.plots import Axes, Series, draw_lines

    series = []
    for name, tokens in dict.fromkeys((t.profile, t.context_tokens) for t in times):
        of = [t for t in times if (t.profile, t.context_tokens) == (name, tokens)]
        series.append(Series(f"{name}, {tokens:,} tokens", [t.concurrency for t in of], [t.mean_s for t in of]))
    for tokens in dict.fromkeys(t.context_tokens for t in times if t.profile == FIG3_PROFILE):
        rows = [r for r in readings("fig3_rdma_prefix.csv") if int(r["context_tokens"]) == tokens]
        x, y = [int(r["concurrency"]) for r in rows], [float(r["mean_s"]) for r in rows]
        series.append(Series(f"SAC Fig 3, {tokens:,} tokens", x, y, dots=True))
    axes = Axes("fetch of whole prefixes (modelled)", "concurrency", "mean s", log_x=True, log_y=True)
    draw_lines(plot, axes, series)


def _profiles(names: str | None, tiers: str, reader: Reader) -> "list[Profile]":
    from emulation.latency.modelled import DEFAULT_PROFILES

    return _chosen(names, tiers, DEFAULT_PROFILES[reader])


def _prefix_profiles(names: str | None, tiers: str) -> "list[Profile]":
    from emulation.latency.modelled import PREFIX_PROFILES

    return _chosen(names, tiers, PREFIX_PROFILES)


def _chosen(names: str | None, tiers: str, by_tier: Mapping[str, str]) -> "list[Profile]":
    from emulation.timing.profile import load_profile

    if names is not None:
        return [load_profile(name) for name in _words("profile", names)]
    wanted = _words("tier", tiers)
    for tier in wanted:
        if tier not in by_tier:
            raise InputError(f"latency: tier={tier!r} is unknown; take one of {', '.join(by_tier)}")
    return [load_profile(by_tier[tier]) for tier in wanted]


def _entry_counts(entries: str | None) -> list[int]:
    from emulation.latency.modelled import FIG5_ENTRIES

    return _numbers("entries", entries, FIG5_ENTRIES)


def _refuse_store(option: str | None, why: str) -> None:
    if option is not None:
        raise InputError(f"latency: {option!r} {why}")


def _words(field: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise InputError(f"latency: {field}={text!r} names nothing; give a comma-separated list")
    return list(dict.fromkeys(words))


def _numbers(field: str, text: str | None, default: Sequence[int]) -> list[int]:
    return list(default if text is None else whole_numbers("latency", field, text))


def _line_bytes(rows: Rows) -> int:
    from sac_runtime.rows.layout import LINE_BYTES

    return _layout(rows).lines_per_row * LINE_BYTES


def _layout(rows: Rows) -> "KvLayout":
    from sac_runtime.rows.layout import KvLayout

    return KvLayout.bf16() if rows is Rows.BF16 else KvLayout.fp8()


def _span(low: float, high: float) -> str:
    from emulation.report.wording import significant

    return f"{significant(low)} to {significant(high)}"

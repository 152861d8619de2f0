"""`cxlbed latency`: fetch time by tier, modelled or on a real store."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from emulation.calibration.fetch import entry_residuals, prefix_residuals
from emulation.cli.options import whole_numbers
from emulation.cli.output import JsonOption, file_option, write_json
from emulation.cli.terminal import show
from emulation.errors import InputError
from emulation.latency.injected import bare_times, filled_store, injected_times, measured_label
from emulation.latency.modelled import (
    FIG3_CONCURRENCIES,
    FIG3_CONTEXTS,
    FIG5_ENTRIES,
    entry_times,
    prefix_times,
)
from emulation.latency.records import (
    BareDocument,
    EntryDocument,
    InjectedDocument,
    PrefixDocument,
    ProfilesDocument,
    TraceDocument,
)
from emulation.latency.replayed import replay
from emulation.latency.setting import setting_of
from emulation.latency.traced import recording_of_trace
from emulation.report.latency import (
    bare_table,
    draw_entries,
    draw_prefixes,
    entries_table,
    injected_table,
    prefixes_table,
    profiles_table,
    trace_table,
)
from emulation.timing.path import default_path
from emulation.timing.profile import Profile, load_profile
from emulation.timing.profile_folders import profile_names
from emulation.timing.tiers import DEFAULT_PROFILES, PREFIX_PROFILES, dram_beside
from sac_runtime.errors import GpuError
from sac_runtime.label import Label
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.memory.spec import STORE_NAMES
from sac_runtime.rows.layout import LINE_BYTES, SAC_BUFFER_SLOTS, KvLayout
from sac_runtime.traces.tables import open_trace

DEFAULT_TIERS = "dram,cxl,rdma"


class Reader(StrEnum):
    """Who fetches."""

    CPU = "cpu"  # one core
    GPU = "gpu"  # over PCIe


class Device(StrEnum):
    """What moves the bytes of a store."""

    CPU = "cpu"
    CUDA = "cuda"  # a GPU of this machine, paced inside its kernel


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
TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="Fetch what hot buffers miss of this top-k trace: a trace file, .npz or .csv (docs/topk-traces.md).",
    ),
]
BufferOption = Annotated[int, typer.Option("--hot-buffer", help="With --trace: slots of each layer's hot buffer.")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", help=f"Move real bytes: {STORE_NAMES}. A shared file must be new; a device is overwritten."
    ),
]
BareOption = Annotated[
    Label | None, typer.Option("--bare", help="With --store: time it as it is; numa-measured or hardware.")
]
DeviceOption = Annotated[
    Device,
    typer.Option("--device", help="What fetches from that store; cuda: a GPU here, by default from anonymous memory."),
]
StoreRowsOption = Annotated[int, typer.Option("--store-rows", help="Rows of that store.")]
RepeatsOption = Annotated[int, typer.Option("--repeats", help="Fetches of each number of entries from that store.")]
PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", callback=file_option("--plot"), help="Draw a picture: .png, .svg or .pdf."),
]


def latency(
    figure: FigureOption = 5,
    tier: TierOption = DEFAULT_TIERS,
    reader: ReaderOption = None,
    profile: ProfileOption = None,
    entries: EntriesOption = None,
    rows: RowsOption = Rows.BF16,
    context: ContextOption = None,
    concurrency: ConcurrencyOption = None,
    trace: TraceOption = None,
    hot_buffer: BufferOption = SAC_BUFFER_SLOTS,
    store: StoreOption = None,
    bare: BareOption = None,
    device: DeviceOption = Device.CPU,
    store_rows: StoreRowsOption = 1 << 17,
    repeats: RepeatsOption = 15,
    list_profiles: ListOption = False,
    plot: PlotOption = None,
    json: JsonOption = None,
) -> None:
    """Fetch time by tier with its ratio to local DRAM: n random entries (as the SAC paper's Fig 5), or whole prefixes by
    concurrency (Fig 3), or the misses of a recorded top-k trace. Modelled on a virtual clock; with --store, real bytes and
    stalls on the wall clock."""
    if list_profiles:
        _list(json)
    elif trace is not None:
        _refuse_store(store or bare, "moves entries, not a trace's misses; leave out --trace")
        _traced(trace, hot_buffer, _profiles(profile, tier, reader or Reader.GPU), rows, json)
    elif figure == 3:
        _refuse_store(store or bare, "moves entries, not prefixes; use it with --figure 5")
        _prefixes(_prefix_profiles(profile, tier), context, concurrency, plot, json)
    elif figure != 5:
        raise InputError(f"latency: figure={figure} must be 5 (entries) or 3 (prefixes)")
    elif device is Device.CUDA:
        _refuse_store(bare, "times a store by the CPU; leave out --device")
        profiles = _profiles(profile, tier, reader or Reader.GPU)
        _injected_by_gpu(
            profiles, _entry_counts(entries), _Source(store or "anonymous", rows, store_rows, repeats), json
        )
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

    def open(self) -> AbstractContextManager[MappedStore]:
        if self.repeats < 1:
            raise InputError(f"latency: repeats={self.repeats} must be at least 1")
        return filled_store(self.spec, _layout(self.rows), self.num_rows)


def _list(json: Path | None) -> None:
    """Show every profile; as JSON with all figures and their sources."""
    profiles = [load_profile(name) for name in profile_names()]
    write_json(json, asdict(ProfilesDocument(profiles)))
    show(json, profiles_table(profiles))


def _entries(profiles: list[Profile], counts: list[int], rows: Rows, plot: Path | None, json: Path | None) -> None:
    times = entry_times(profiles, counts, _line_bytes(rows), entry_residuals())
    setting = setting_of(profiles, "one reader alone", entries=counts)
    write_json(json, asdict(EntryDocument(5, rows, setting, times)))
    if plot is not None:
        draw_entries(times, rows, plot)
    show(json, entries_table(times, rows, setting))


def _prefixes(
    profiles: list[Profile], context: str | None, concurrency: str | None, plot: Path | None, json: Path | None
) -> None:
    contexts = _numbers("context", context, FIG3_CONTEXTS)
    concurrencies = _numbers("concurrency", concurrency, FIG3_CONCURRENCIES)
    times = prefix_times(profiles, contexts, concurrencies, prefix_residuals())
    setting = setting_of(
        profiles, "prefixes whole, as SAC's engine moves them", contexts=contexts, concurrencies=concurrencies
    )
    write_json(json, asdict(PrefixDocument(3, setting, times)))
    if plot is not None:
        draw_prefixes(times, plot)
    show(json, prefixes_table(times, setting))


def _traced(path: Path, hot_buffer: int, profiles: list[Profile], rows: Rows, json: Path | None) -> None:
    trace = open_trace(path)
    recording = recording_of_trace(trace, hot_buffer, _layout(rows))
    tiers = {profile.name: profile for profile in profiles}
    named = {one.tier if len({p.tier for p in profiles}) == len(tiers) else one.name: one for one in tiers.values()}
    drams = {"dram": dram_beside(profiles[0], profiles)} if "dram" not in named else {}
    paths = {name: [default_path(profile)] for name, profile in {**drams, **named}.items()}
    records = replay(recording, paths, entry_residuals())
    header = trace.header
    setting = setting_of(
        [path.profile for (path,) in paths.values()],
        "one reader alone, layer after layer",
        contexts=header.context_tokens,
        model="the trace",
    )
    document = TraceDocument(
        trace=str(path),
        source=header.source,
        requests=header.num_requests,
        layers=header.num_layers,
        steps=len(recording.misses),
        top_k=header.top_k,
        context_tokens=header.context_tokens,
        hot_buffer=hot_buffer,
        rows=rows,
        miss_rate=recording.miss_rate,
        setting=setting,
        records=records,
    )
    write_json(json, asdict(document))
    show(json, trace_table(document))


def _injected(profiles: list[Profile], counts: list[int], source: _Source, json: Path | None) -> None:
    with source.open() as store:
        times, error = injected_times(store, profiles, counts, source.repeats)
    setting = setting_of(profiles, f"this machine's gather from {source.spec}, stalled", entries=counts)
    write_json(json, asdict(InjectedDocument(5, source.spec, setting, times, error)))
    show(json, injected_table(times, error, source.spec, setting))


def _injected_by_gpu(profiles: list[Profile], counts: list[int], source: _Source, json: Path | None) -> None:
    try:  # the only part of this verb that needs torch and Triton
        from emulation.latency.device import device_times
        from sac_runtime.gpu.device import require_gpu
    except ModuleNotFoundError as missing:
        raise GpuError(f"gpu: {missing.name} is not installed; pip install 'cxlbed[gpu]'") from missing
    require_gpu()  # before the store is filled
    with source.open() as store:
        times, error = device_times(store, profiles, counts, source.repeats)
    setting = setting_of(profiles, f"this machine's GPU from {source.spec}, paced in its kernel", entries=counts)
    write_json(json, asdict(InjectedDocument(5, source.spec, setting, times, error)))
    show(json, injected_table(times, error, source.spec, setting))


def _bare(claimed: Label, counts: list[int], source: _Source, json: Path | None) -> None:
    with source.open() as store:
        times = bare_times(store, measured_label(claimed, source.spec), counts, source.repeats)
    write_json(json, asdict(BareDocument(5, source.spec, times)))
    show(json, bare_table(times, source.spec))


def _profiles(names: str | None, tiers: str, reader: Reader) -> list[Profile]:
    return _chosen(names, tiers, DEFAULT_PROFILES[reader])


def _prefix_profiles(names: str | None, tiers: str) -> list[Profile]:
    return _chosen(names, tiers, PREFIX_PROFILES)


def _chosen(names: str | None, tiers: str, by_tier: Mapping[str, str]) -> list[Profile]:
    if names is not None:
        return [load_profile(name) for name in _words("profile", names)]
    wanted = _words("tier", tiers)
    for tier in wanted:
        if tier not in by_tier:
            raise InputError(f"latency: tier={tier!r} is unknown; take one of {', '.join(by_tier)}")
    return [load_profile(by_tier[tier]) for tier in wanted]


def _entry_counts(entries: str | None) -> list[int]:
    return _numbers("entries", entries, FIG5_ENTRIES)


def _refuse_store(option: str | None, why: str) -> None:
    if option is not None:
        raise InputError(f"latency: {str(option)!r} {why}")


def _words(field: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise InputError(f"latency: {field}={text!r} names nothing; give a comma-separated list")
    return list(dict.fromkeys(words))


def _numbers(field: str, text: str | None, default: Sequence[int]) -> list[int]:
    return list(default if text is None else whole_numbers("latency", field, text))


def _line_bytes(rows: Rows) -> int:
    return _layout(rows).lines_per_row * LINE_BYTES


def _layout(rows: Rows) -> KvLayout:
    return KvLayout.bf16() if rows is Rows.BF16 else KvLayout.fp8()

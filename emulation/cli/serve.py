"""`cxlbed serve`: throughput, TTFT and TBT by tier, context and concurrency, modelled."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from emulation.calibration.residuals import shipped_residuals
from emulation.cli.options import whole_numbers
from emulation.cli.output import JsonOption, write_json
from emulation.cli.progress import progress
from emulation.cli.serve_options import (
    LISTED,
    BlockOption,
    BufferOption,
    BurstOption,
    ChunkOption,
    CoherenceOption,
    CompareOption,
    ConcurrencyOption,
    ContextOption,
    DevicesOption,
    EngineOption,
    GpuOption,
    GpusOption,
    HbmOption,
    HbmPrefix,
    HbmPrefixOption,
    Intervals,
    IntervalsOption,
    ModelOption,
    NicGbitOption,
    NicsOption,
    ObserveOption,
    OutputOption,
    OverlapOption,
    PerRequestOption,
    PlacementOption,
    PlotsOption,
    PrefillGpusOption,
    PrefixesOption,
    ProfileOption,
    RateOption,
    RdmaOption,
    RequestsOption,
    RoundOption,
    SeedOption,
    ServersOption,
    SloTbtOption,
    SloTtftOption,
    StripedOption,
    TierOption,
    TopkTraceOption,
    TraceOption,
)
from emulation.cli.terminal import show
from emulation.errors import InputError
from emulation.files import write_whole
from emulation.report.comparison import comparison_record, comparison_tables, draw_comparison, verdict
from emulation.report.observed import beside_table
from emulation.report.serving import draw_records, records_table
from emulation.serving.beside import ObservedDocument, beside, run_of, workload_of
from emulation.serving.cluster import Outcome
from emulation.serving.coherence import WAYS
from emulation.serving.compare import CONCURRENCIES, Setting, compare
from emulation.serving.observed import read_observed
from emulation.serving.records import ComparisonDocument, ServingRecord, SweepDocument
from emulation.serving.replay import replay_of
from emulation.serving.request_table import COLUMNS, request_lines
from emulation.serving.slo import Slo
from emulation.serving.spec import ENGINES, PLACEMENTS, ClusterSpec
from emulation.serving.sweep import (
    MOST_VARIANTS,
    PAPER_REQUESTS,
    Arrivals,
    SweepAxes,
    run_scenario,
    scenarios,
)
from emulation.serving.testbed import cluster_on
from emulation.serving.traces.reading import read_trace
from emulation.timing.misses import MeasuredLaw
from emulation.timing.profile import Profile, load_profile, read_by_gpu
from sac_runtime.rows.layout import SAC_BUFFER_SLOTS
from sac_runtime.traces.tables import open_trace


def serve(
    tier: TierOption = "dram,cxl,rdma",
    context: ContextOption = "16K,32K,64K,128K",
    concurrency: ConcurrencyOption = "64",
    output: OutputOption = None,
    requests: RequestsOption = None,
    prefixes: PrefixesOption = "512",
    devices: DevicesOption = "2",
    servers: ServersOption = "1",
    gpus: GpusOption = "8",
    hot_buffer: BufferOption = str(SAC_BUFFER_SLOTS),
    profile: ProfileOption = None,
    trace: TraceOption = None,
    block_tokens: BlockOption = None,
    round_number: RoundOption = "2",
    seed: SeedOption = 0,
    rate: RateOption = None,
    burstiness: BurstOption = 1.0,
    overlap: OverlapOption = None,
    topk_trace: TopkTraceOption = None,
    model: ModelOption = "deepseek-v3.2",
    gpu: GpuOption = "h20",
    rdma: RdmaOption = "sac",
    nics: NicsOption = None,
    nic_gbit: NicGbitOption = None,
    engine: EngineOption = ENGINES[0],
    placement: PlacementOption = PLACEMENTS[0],
    chunk_tokens: ChunkOption = "1K",
    prefill_gpus: PrefillGpusOption = "2",
    striped: StripedOption = False,
    hbm_kv: HbmOption = None,
    hbm_prefix: HbmPrefixOption = HbmPrefix.KEPT,
    coherence: CoherenceOption = WAYS[0],
    slo_ttft: SloTtftOption = None,
    slo_tbt: SloTbtOption = None,
    intervals: IntervalsOption = Intervals.AUTO,
    plots: PlotsOption = None,
    per_request: PerRequestOption = None,
    observe: ObserveOption = None,
    compare: CompareOption = False,
    json: JsonOption = None,
) -> None:
    """Throughput, TTFT and TBT of SAC on a CXL pool, on local DRAM, with RDMA prefetch, and of HBM only: a calibrated model
    of the serving engine over the links of the timing profiles."""
    if burstiness != 1 and rate is None:
        raise InputError(f"serve: burstiness={burstiness} shapes arrivals at a rate; give --rate")
    if block_tokens is not None and trace is None:
        raise InputError(f"serve: block-tokens={block_tokens} is of a trace's hash ids; give --trace")
    lists = (context, concurrency, "1K" if output is None else output, devices, servers, gpus, hot_buffer, round_number)
    axes = _axes((tier, engine, placement), lists, profile, topk_trace)
    base = replace(cluster_on(model, gpu, rdma, nics, nic_gbit, hbm_kv), overlap=overlap, striped=striped)
    chunk, prefill = _one_number("chunk-tokens", chunk_tokens), _one_number("prefill-gpus", prefill_gpus)
    base = replace(base, chunk_tokens=chunk, prefill_gpus=prefill, coherence=coherence)
    base = replace(base, free_hbm_prefix=hbm_prefix is HbmPrefix.KEPT)
    num_prompts = None if requests is None else _one_number("requests", requests)
    if compare:
        _refuse_with_compare({"profile": profile, "trace": trace, "rate": rate, "per_request": per_request}, axes)
        return _compare(axes, base, num_prompts or PAPER_REQUESTS, plots, json)
    if observe:
        return _observe(observe, axes, base, intervals, json)
    num_prefixes, replay = _one_number("prefixes", prefixes), None
    if trace:
        tokens = None if output is None else _one_number("output", output)
        recorded = read_trace(trace, block_tokens, tokens, base.model.max_context_tokens)
        replay = replay_of(recorded, num_prompts, rate, _one_number("concurrency", concurrency), burstiness, seed)
        rate = None
    traffic = Arrivals(
        num_prompts or PAPER_REQUESTS, num_prefixes, rate, burstiness, replay, seed, Slo(slo_ttft, slo_tbt)
    )
    return _sweep(axes, traffic, base, intervals, plots, per_request, json)


def _axes(words: Sequence[str], lists: Sequence[str], profile: str | None, topk_trace: Path | None) -> SweepAxes:
    """The combinations to sweep. words: tiers, engines, placements; lists: as `LISTED` names them."""
    numbers = {option: _numbers(option, text) for option, text in zip(LISTED, lists, strict=True)}
    tiers, engines, placements = (tuple(dict.fromkeys(word.strip() for word in text.split(","))) for text in words)
    return SweepAxes(
        tiers=tiers,
        contexts=numbers["context"],
        concurrencies=numbers["concurrency"],
        outputs=numbers["output"],
        devices=numbers["devices"],
        servers=numbers["servers"],
        gpus=numbers["gpus"],
        hot_buffers=numbers["hot-buffer"],
        profiles=_profiles(profile),
        rounds=numbers["round"],
        measured_misses=_measured_misses(topk_trace, numbers["hot-buffer"]),
        engines=engines,
        placements=placements,
    )


def _numbers(option: str, text: str) -> tuple[int, ...]:
    return whole_numbers("serve", option, text)


def _one_number(option: str, text: str) -> int:
    number, *more = _numbers(option, text)
    if more:
        raise InputError(f"serve: {option}={text!r} must be one number, as it is not swept; call it for each")
    return number


def _profiles(names: str | None) -> tuple[Profile, ...]:
    """Profiles by name; one of a CPU's is read by the testbed's GPU instead, since GPUs fetch here."""
    loaded = [load_profile(name.strip()) for name in names.split(",")] if names is not None else []
    return tuple(profile if profile.read_by == "gpu" else read_by_gpu(profile) for profile in loaded)


def _measured_misses(path: Path | None, hot_buffers: tuple[int, ...]) -> dict[int, float]:
    """Misses per layer and step at each size of the hot buffer, measured on a recorded trace."""
    if path is None:
        return {}
    trace = open_trace(path)
    return {slots: MeasuredLaw.of_trace(trace, slots).measured for slots in hot_buffers}


def _sweep(
    axes: SweepAxes,
    traffic: Arrivals,
    base: ClusterSpec,
    intervals: Intervals,
    plots: Path | None,
    per_request: Path | None,
    json: Path | None,
) -> None:
    records, latencies, lines = [], [], [COLUMNS]
    for record, outcome in _run(axes, traffic, base, intervals):
        records.append(record)
        latencies.append(outcome.recorder.latency_cdf() if outcome else {})
        if per_request and outcome:
            lines += request_lines(len(records) - 1, record.tier, outcome.recorder)
    show(json, records_table(records))
    if plots:
        show(json, *(f"drawn: {path}" for path in draw_records(plots, records, latencies)))
    if per_request:
        write_whole(per_request, "".join(lines))
    write_json(json, asdict(SweepDocument(records)))


def _observe(path: Path, axes: SweepAxes, base: ClusterSpec, intervals: Intervals, json: Path | None) -> None:
    """Serve what was observed, on each tier, and set both beside one another."""
    observed = read_observed(path)
    traffic = Arrivals(observed.completed, trace=workload_of(observed))
    predictions = [beside(observed, record) for record, _ in _run(axes, traffic, base, intervals)]
    document = ObservedDocument(run_of(observed, str(path)), predictions)
    show(json, *(beside_table(document.observed, tier) for tier in predictions))
    write_json(json, asdict(document))


def _run(
    axes: SweepAxes, traffic: Arrivals, base: ClusterSpec, intervals: Intervals
) -> Iterator[tuple[ServingRecord, Outcome | None]]:
    """Run every combination, and tell of it."""
    residuals = shipped_residuals()
    most = {Intervals.AUTO: MOST_VARIANTS, Intervals.ALL: sys.maxsize, Intervals.FIT: 0}[intervals]
    asked = list(scenarios(axes, traffic, base))
    with progress() as tell:
        for number, scenario in enumerate(asked, 1):
            words = f"{number} of {len(asked)}: {scenario.spec.tier}, {scenario.workload.num_prompts} requests"
            tell(words)
            yield run_scenario(scenario, _told_every(tell, words), residuals, most)


def _told_every(tell: Callable[[str], None], words: str, num_requests: int = 1 << 16) -> Callable[[int], None]:
    def on_progress(done: int) -> None:
        if done % num_requests == 0:
            tell(f"{words}, {done} done")

    return on_progress


def _refuse_with_compare(own: dict[str, object], axes: SweepAxes) -> None:
    """A comparison runs all tiers in a closed loop, varies latency and bandwidth itself, and sweeps nothing else."""
    for option, value in own.items():
        if value is not None:
            raise InputError(
                f"serve: {option}={value} means nothing to --compare, which varies it or has none; leave it out"
            )
    for option in ("outputs", "devices", "servers", "gpus", "hot_buffers", "engines", "placements"):
        if len(getattr(axes, option)) > 1:
            raise InputError(f"serve: {option}={getattr(axes, option)} with --compare must be one; call it for each")
    if axes.rounds != (2,):
        raise InputError(f"serve: round={axes.rounds} with --compare must be 2, where prefixes are hit")


def _compare(axes: SweepAxes, base: ClusterSpec, num_prompts: int, plots: Path | None, json: Path | None) -> None:
    base = replace(
        base,
        num_devices=axes.devices[0],
        num_servers=axes.servers[0],
        hot_buffer=axes.hot_buffers[0],
        engine=axes.engines[0],
        placement=axes.placements[0],
        measured_misses=axes.measured_misses.get(axes.hot_buffers[0]),
        server=replace(base.server, num_gpus=axes.gpus[0]),
    )
    concurrencies = axes.concurrencies if len(axes.concurrencies) > 1 else CONCURRENCIES
    found = []
    with progress() as tell:
        for context in axes.contexts:
            setting = Setting(base, context, axes.outputs[0], axes.concurrencies[-1], num_prompts, shipped_residuals())
            found.append(compare(setting, concurrencies, tell))
    for comparison in found:
        show(json, *comparison_tables(comparison), *verdict(comparison))
        if plots:
            show(json, f"drawn: {draw_comparison(plots, comparison)}")
    write_json(json, asdict(ComparisonDocument([comparison_record(comparison) for comparison in found])))

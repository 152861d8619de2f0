"""Sweeps: every combination of settings, run one by one, each a record. Knows settings and records, no engine."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

from emulation.errors import InputError
from emulation.serving.cluster import Outcome, simulate, why_not
from emulation.serving.coherence import CoherenceCosts
from emulation.serving.fit_range import outside_fit
from emulation.serving.intervals import Residuals, Variant, hit_rate_interval, intervals_of, variants
from emulation.serving.notes import note_of
from emulation.serving.records import ScenarioRecord, ServingRecord
from emulation.serving.replay import TraceReplay
from emulation.serving.slo import NO_SLO, GoodCounter, Slo, widened
from emulation.serving.spec import ENGINES, PLACEMENTS, ClusterSpec
from emulation.serving.workload import PAPER_PREFIXES, ClosedLoop, OpenLoop, Workload
from emulation.timing.interval import Interval
from emulation.timing.profile import Profile
from emulation.timing.tiers import can_stand_for
from sac_runtime.rows.layout import SAC_BUFFER_SLOTS

PAPER_REQUESTS = 512  # of each of SAC's serving runs
NO_VARIANTS = 0
MOST_VARIANTS = 2048  # requests up to which a run's variants are run as well


@dataclass(frozen=True)
class SweepAxes:
    """The lists whose product is swept."""

    tiers: tuple[str, ...] = ("dram", "cxl", "rdma")
    contexts: tuple[int, ...] = (16384, 32768, 65536, 131072)
    concurrencies: tuple[int, ...] = (64,)
    outputs: tuple[int, ...] = (1024,)
    devices: tuple[int, ...] = (2,)
    servers: tuple[int, ...] = (1,)
    gpus: tuple[int, ...] = (8,)
    hot_buffers: tuple[int, ...] = (SAC_BUFFER_SLOTS,)
    profiles: tuple[Profile, ...] = ()
    rounds: tuple[int, ...] = (2,)
    measured_misses: Mapping[int, float] = field(default_factory=dict)  # by slots of the hot buffer
    engines: tuple[str, ...] = ENGINES[:1]
    placements: tuple[str, ...] = PLACEMENTS[:1]


@dataclass(frozen=True)
class Arrivals:
    """How requests come. Without a rate and a trace: a closed loop."""

    num_prompts: int = PAPER_REQUESTS
    num_prefixes: int = PAPER_PREFIXES
    request_rate: float | None = None
    burstiness: float = 1.0
    trace: TraceReplay | None = None
    seed: int = 0
    slo: Slo = NO_SLO


@dataclass(frozen=True)
class Scenario:
    """One combination: a cluster and its workload."""

    spec: ClusterSpec
    workload: Workload
    context_tokens: int | None  # None: as the trace has it
    output_tokens: int | None
    round_number: int | None
    seed: int | None
    slo: Slo = NO_SLO

    def record(self) -> ScenarioRecord:
        """What is run, for its record."""
        spec, nic_gbit = self.spec, self.spec.nic_gbit
        return ScenarioRecord(
            tier=spec.tier,
            model=spec.model.name,
            gpu=spec.gpu.name,
            rdma=spec.rdma.name if nic_gbit else None,
            nics=spec.rdma.nics if nic_gbit else None,
            nic_gbit=nic_gbit,
            context_tokens=self.context_tokens,
            concurrency=self.workload.max_concurrency,
            output_tokens=self.output_tokens,
            requests=self.workload.num_prompts,
            devices=spec.num_devices if spec.policy.home == "pool" else None,
            servers=spec.num_servers,
            gpus=spec.server.num_gpus,
            hot_buffer=spec.hot_buffer if spec.fetch_profile else None,
            profile=_profile_name(spec),
            striped=spec.striped,
            engine=spec.engine,
            placement=spec.placement,
            round=self.round_number,
            seed=self.seed,
            coherence=spec.coherence if spec.coherence_costs != CoherenceCosts() else None,
            slo_ttft_ms=self.slo.ttft_ms,
            slo_tbt_ms=self.slo.tbt_ms,
            outside_fit=self.outside_fit,
            trace=self.workload.trace.counts if isinstance(self.workload, TraceReplay) else None,
        )

    @cached_property
    def outside_fit(self) -> tuple[str, ...]:
        """What of the run the model was not fitted to."""
        prompts, outputs = self.workload.lengths
        return outside_fit(self.spec, prompts, outputs, self.workload.max_concurrency)


def scenarios(axes: SweepAxes, arrivals: Arrivals, base: ClusterSpec) -> Iterator[Scenario]:
    """All combinations; a setting that means nothing to a tier (devices without a pool) is not varied for it.
    Raises InputError for a profile that none of the tiers can use."""
    _refuse_unused_profiles(axes)
    for tier in axes.tiers:
        has_pool = tier == "cxl"
        profiles = tuple(profile for profile in axes.profiles if can_stand_for(profile, tier)) or (None,)
        for devices, servers, gpus, hot_buffer, profile, engine, placement in product(
            axes.devices if has_pool else axes.devices[:1],
            axes.servers,
            axes.gpus,
            axes.hot_buffers if tier != "hbm" else axes.hot_buffers[:1],
            profiles,
            axes.engines,
            axes.placements,
        ):
            spec = replace(
                base,
                tier=tier,
                num_devices=devices,
                num_servers=servers,
                server=replace(base.server, num_gpus=gpus),
                hot_buffer=hot_buffer,
                measured_misses=axes.measured_misses.get(hot_buffer),
                profile=profile,
                engine=engine,
                placement=placement,
            )
            yield from _with_workloads(spec, axes, arrivals)


def run_scenario(
    scenario: Scenario,
    on_progress: Callable[[int], None] | None = None,
    residuals: Residuals | None = None,
    most_variants: int = NO_VARIANTS,
) -> tuple[ServingRecord, Outcome | None]:
    """The record of a scenario, and its outcome; None where a request does not fit the tier, which the record says.

    residuals: the fit's, for intervals; None: no intervals. Variants of the cluster are run too, for the intervals, where the
    scenario has at most `most_variants` requests."""
    spec, workload = scenario.spec, scenario.workload
    limit = spec.running_limit(workload.longest_len)
    if not limit:
        note = why_not(spec, workload.longest_len)
        return ServingRecord(**vars(scenario.record()), fits=False, running_limit=0, note=note), None
    outcome = simulate(spec, workload, on_progress, _good(scenario, residuals))
    note = note_of(workload, scenario.round_number, limit, outcome, bool(scenario.outside_fit))
    record = ServingRecord.served(scenario.record(), limit, note, outcome)
    if residuals is not None:
        record = _with_intervals(record, scenario, residuals, most_variants, outcome.goodput())
    return record, outcome


def _good(scenario: Scenario, residuals: Residuals | None) -> GoodCounter | None:
    """What counts the requests that meet the scenario's SLO; None without one."""
    if not scenario.slo:
        return None
    known = residuals or Residuals()
    errors = (known.of(scenario.spec.tier, name) for name in ("mean_ttft_ms", "mean_tpot_ms"))
    return GoodCounter(scenario.slo, *errors)


def _with_intervals(
    record: ServingRecord, scenario: Scenario, residuals: Residuals, most_variants: int, good: Interval | None
) -> ServingRecord:
    alike = variants(scenario.spec)
    few = scenario.workload.num_prompts <= most_variants
    ran = [_figures(scenario, other) for other in alike] if few else []
    covered = [f"errors of the fit at {residuals.num_points(record.tier)} readings"] if residuals.by_kind else []
    covered += [other.what for other in alike] if few else []
    left_out = [f"left out, for {record.requests} requests: {other.what}" for other in alike] if not few else []
    intervals = intervals_of(vars(record), ran, record.tier, residuals)
    if residuals.by_kind and record.hit_rate is not None:
        others = [rate for other in ran if (rate := other["hit_rate"]) is not None]
        intervals["hit_rate"] = hit_rate_interval(record.hit_rate, scenario.spec, others)
    if good is not None and record.goodput is not None:
        intervals["goodput"] = widened(good, [other["goodput"] for other in ran], intervals["request_throughput"])
    return replace(record, intervals=intervals, interval_from=covered + left_out)


def _figures(scenario: Scenario, other: Variant) -> dict[str, float | None]:
    """The figures of the same workload on another cluster."""
    outcome = simulate(other.spec, scenario.workload, good=_good(scenario, None))
    return vars(ServingRecord.served(scenario.record(), 0, "", outcome))


def _with_workloads(spec: ClusterSpec, axes: SweepAxes, arrivals: Arrivals) -> Iterator[Scenario]:
    if arrivals.trace is not None:
        replay = arrivals.trace
        seed = arrivals.seed if replay.request_rate is not None else None
        yield Scenario(spec, replay, None, None, None, seed, arrivals.slo)
        return
    concurrencies = axes.concurrencies if arrivals.request_rate is None else (0,)
    for context, output, concurrency, number in product(axes.contexts, axes.outputs, concurrencies, axes.rounds):
        workload = _workload(arrivals, context, output, concurrency, number)
        yield Scenario(spec, workload, context, output, number, arrivals.seed, arrivals.slo)


def _workload(arrivals: Arrivals, context: int, output: int, concurrency: int, round_number: int) -> Workload:
    num_prompts, num_prefixes = arrivals.num_prompts, arrivals.num_prefixes
    if arrivals.request_rate is None:
        return ClosedLoop(num_prompts, concurrency, context, output, round_number, num_prefixes)
    return OpenLoop(
        num_prompts,
        arrivals.request_rate,
        context,
        output,
        arrivals.burstiness,
        round_number,
        arrivals.seed,
        num_prefixes,
    )


def _refuse_unused_profiles(axes: SweepAxes) -> None:
    for profile in axes.profiles:
        if not any(can_stand_for(profile, tier) for tier in axes.tiers):
            raise InputError(
                f"profile {profile.name!r}: tier={profile.tier!r} is none of those served here "
                f"({', '.join(axes.tiers)}); add the tier or leave the profile out"
            )


def _profile_name(spec: ClusterSpec) -> str | None:
    profile = spec.prefetch_profile or spec.fetch_profile
    return profile.name if profile else None

"""What `cxlbed serve --json` writes, as dataclasses. Knows names and their order; runs nothing.

Figures are named as sglang.bench_serving names them; their meaning is that of `metrics.Summary`."""

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Self

from emulation.serving.cluster import Outcome
from emulation.serving.compare import GridPoint, TippingPoint
from emulation.serving.fit_range import FIT_RANGE, FitRange
from emulation.serving.overload import Overload
from emulation.serving.rivals import RivalPoint
from emulation.serving.traces.reading import TraceCounts
from emulation.timing.interval import Interval, Order
from sac_runtime.label import Label


@dataclass(frozen=True, kw_only=True)
class ScenarioRecord:
    """What was run. None: as the trace has it, or without meaning for the tier (devices without a pool)."""

    tier: str
    model: str
    gpu: str
    rdma: str | None  # the way of RDMA, its network cards per server and their wire
    nics: int | None
    nic_gbit: float | None
    context_tokens: int | None
    concurrency: int | None  # in flight at most; None: requests come at their own times
    output_tokens: int | None
    requests: int
    devices: int | None
    servers: int
    gpus: int  # per server
    hot_buffer: int | None  # slots of a request per layer
    profile: str | None
    striped: bool
    engine: str
    placement: str
    round: int | None  # None: of a trace, whose reuse is recorded
    seed: int | None  # None: nothing was drawn
    coherence: str | None  # how hosts see one another's KV; None: in no pool, or no time of it is known
    slo_ttft_ms: float | None
    slo_tbt_ms: float | None
    outside_fit: tuple[str, ...]  # what of it the model was not fitted to
    fit_range: FitRange = FIT_RANGE
    trace: TraceCounts | None = None  # what the file held, and what was made of it
    label: Label = Label.MODELLED


@dataclass(frozen=True, kw_only=True)
class ServingRecord(ScenarioRecord):
    """One scenario and what came of it. Where a request does not fit the tier (`fits`), nothing was run: figures are None, and
    `note` says why. Latencies in ms, rates per second, duration in s; bytes and mean load (0..1) by link."""

    fits: bool
    running_limit: int  # requests that could run at once
    note: str
    overload: Overload | None = None  # then times to the first and last token grow with the run and are None
    duration: float | None = None
    completed: int | None = None
    total_input_tokens: int | None = None
    total_output_tokens: int | None = None
    request_throughput: float | None = None
    output_throughput: float | None = None
    goodput: float | None = None  # requests per second that meet the SLO; None without one
    hit_rate: float | None = None
    mean_ttft_ms: float | None = None
    median_ttft_ms: float | None = None
    p90_ttft_ms: float | None = None
    p95_ttft_ms: float | None = None
    p99_ttft_ms: float | None = None
    mean_tpot_ms: float | None = None
    median_tpot_ms: float | None = None
    p90_tpot_ms: float | None = None
    p95_tpot_ms: float | None = None
    p99_tpot_ms: float | None = None
    mean_e2e_latency_ms: float | None = None
    median_e2e_latency_ms: float | None = None
    p90_e2e_latency_ms: float | None = None
    p95_e2e_latency_ms: float | None = None
    p99_e2e_latency_ms: float | None = None
    mean_itl_ms: float | None = None
    median_itl_ms: float | None = None
    p90_itl_ms: float | None = None
    p95_itl_ms: float | None = None
    p99_itl_ms: float | None = None
    mean_concurrency: float | None = None
    prefix_hit_rate: float | None = None
    bytes_by_link: dict[str, int] = field(default_factory=dict)
    utilisation_by_link: dict[str, float] = field(default_factory=dict)
    seconds_a_request: dict[str, float] = field(default_factory=dict)  # by state, `metrics.TimeSpent`
    intervals: dict[str, Interval] = field(default_factory=dict)  # of each figure above, by its name
    interval_from: list[str] = field(default_factory=list)  # what the intervals cover

    @classmethod
    def served(cls, scenario: ScenarioRecord, running_limit: int, note: str, outcome: Outcome) -> Self:
        """The record of a scenario that was run."""
        recorder, overload = outcome.recorder, outcome.overload()
        summary = recorder.summary()
        ttft, tpot, e2e, itl = summary.ttft_ms, summary.tpot_ms, summary.e2e_latency_ms, summary.itl_ms
        goodput = outcome.goodput()
        record = cls(
            **vars(scenario), overload=overload, fits=True, running_limit=running_limit, note=note, duration=summary.duration_s,
            completed=summary.completed, goodput=goodput.value if goodput else None,
            total_input_tokens=summary.total_input_tokens, total_output_tokens=summary.total_output_tokens,
            request_throughput=summary.request_throughput, output_throughput=summary.output_throughput,
            hit_rate=summary.hit_rate, mean_concurrency=summary.concurrency,
            prefix_hit_rate=outcome.num_cached_tokens / max(1, recorder.num_input_tokens),
            mean_ttft_ms=ttft.mean, median_ttft_ms=ttft.median, p90_ttft_ms=ttft.p90, p95_ttft_ms=ttft.p95, p99_ttft_ms=ttft.p99,
            mean_tpot_ms=tpot.mean, median_tpot_ms=tpot.median, p90_tpot_ms=tpot.p90, p95_tpot_ms=tpot.p95, p99_tpot_ms=tpot.p99,
            mean_e2e_latency_ms=e2e.mean, median_e2e_latency_ms=e2e.median, p90_e2e_latency_ms=e2e.p90,
            p95_e2e_latency_ms=e2e.p95, p99_e2e_latency_ms=e2e.p99,
            mean_itl_ms=itl.mean, median_itl_ms=itl.median, p90_itl_ms=itl.p90, p95_itl_ms=itl.p95, p99_itl_ms=itl.p99,
            bytes_by_link=outcome.bytes_by_link(), utilisation_by_link=outcome.utilisation_by_link(),
            seconds_a_request=recorder.seconds_per_request(),
        )  # fmt: skip
        return replace(record, **_UNSTEADY) if overload else record


_UNSTEADY: dict[str, Any] = {
    f"{which}_{name}_ms": None
    for which, name in product(("mean", "median", "p90", "p95", "p99"), ("ttft", "e2e_latency"))
}
"""What an overloaded run has no steady figure of."""


@dataclass(frozen=True)
class ConcurrencyPoint:
    """Output tokens per second of each tier at one concurrency; 0 where a request does not fit."""

    concurrency: int
    hbm: float
    dram: float
    cxl: float
    rdma: float
    intervals: dict[str, Interval]  # by tier


@dataclass(frozen=True)
class TierOrder:
    """How CXL lies to a tier, both in output tokens per second: decided only where the intervals do not overlap."""

    tier: str
    order: Order
    cxl: Interval
    other: Interval


@dataclass(frozen=True)
class ComparisonRecord:
    """A comparison, `compare.Comparison`, with its ratios and its answer in sentences. flips: the tipping points."""

    model: str
    gpu: str
    gpus: int
    rdma: str  # the way of RDMA, its network cards per server and their wire
    nics: int
    nic_gbit: float | None
    context_tokens: int
    concurrency: int
    output_tokens: int
    hbm_prefix_kept: bool
    outside_fit: tuple[str, ...]
    fit_range: FitRange
    label: Label
    ratios: dict[str, float]  # CXL's throughput over each tier's
    orders: list[TierOrder]
    by_concurrency: list[ConcurrencyPoint]
    interval_from: list[str]
    hbm_crossover_concurrency: int | None
    hbm_decided_concurrency: int | None
    break_even_steps: int | None
    grid: list[GridPoint]
    rivals: list[RivalPoint]
    flips: list[TippingPoint]
    verdict: list[str]


@dataclass(frozen=True)
class SweepDocument:
    """What `cxlbed serve` writes."""

    records: list[ServingRecord]


@dataclass(frozen=True)
class ComparisonDocument:
    """What `cxlbed serve --compare` writes."""

    comparisons: list[ComparisonRecord]

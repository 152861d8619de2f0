"""Intervals of a serving record's figures: over profiles that disagree, over what is assumed of hardware that nothing was fitted
on, and over the fit's residuals. Knows records, specs and residuals; the residuals come from who calibrates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from emulation.serving.scaling import scaled_costs, with_rdma
from emulation.serving.spec import ClusterSpec, GpuSpec, ModelShape
from emulation.timing.disagreement import other_readings
from emulation.timing.interval import NO_RESIDUAL, Interval, Residual, interval_of
from emulation.timing.misses import BUFFER_SLOPE, BufferLaw
from emulation.timing.profile import load_profile
from sac_runtime.rows.layout import SAC_BUFFER_SLOTS

THROUGHPUT, TBT, TTFT = "tokens_per_s", "tbt_ms", "ttft_s"
_STATISTICS = ("mean", "median", "p90", "p95", "p99")
_LATENCIES = {"ttft": (TTFT,), "tpot": (TBT,), "itl": (TBT,), "e2e_latency": (TBT, TTFT)}
METRICS: Mapping[str, tuple[str, ...]] = {  # of each figure of a record: the kinds of readings whose residuals it takes
    "request_throughput": (THROUGHPUT,),
    "output_throughput": (THROUGHPUT,),
    "duration": (THROUGHPUT,),
    "mean_concurrency": (),
    "hit_rate": (),
    "prefix_hit_rate": (),
    **{f"{one}_{of}_ms": metrics for of, metrics in _LATENCIES.items() for one in _STATISTICS},
}
INVERSE = ("duration",)  # grows as throughput falls
FEW_POINTS = 6  # a kind with fewer readings of its own takes all tiers' errors as well
GLM_MISSES_AT_K = 0.300  # of k, with a buffer of k slots [arXiv 2608.07009 [misses]]
MISSES_NEEDED = {
    16384: 33,
    32768: 50,
    65536: 78,
    131072: 128,
}  # by the gap of CXL and DRAM in SAC's Fig 10; timing.misses


@dataclass(frozen=True)
class Residuals:
    """The fit's residuals by (tier, kind of reading); `p99_` before a kind is that of its 99th percentile."""

    by_kind: Mapping[tuple[str, str], Residual] = field(default_factory=dict, hash=False)

    def of(self, tier: str, figure: str) -> Residual:
        """That of a figure of a record: the widest over its kinds of readings; where a tier has few, over all tiers."""
        kinds = [kind for metric in METRICS[figure] for kind in self._kinds(figure, metric)]
        known = [one for kind in kinds for one in self._known(tier, kind)]
        if not known:
            return NO_RESIDUAL
        least, most = min(one.least for one in known), max(one.most for one in known)
        residual = Residual(least, most, max(one.points for one in known))
        return residual.inverse() if figure in INVERSE else residual

    def num_points(self, tier: str) -> int:
        """How many readings of a tier they rest on, or of all tiers where it has none."""
        own = [one.points for (of, _), one in self.by_kind.items() if of == tier]
        return sum(own or [one.points for one in self.by_kind.values()])

    def _kinds(self, figure: str, metric: str) -> list[str]:
        """A 99th percentile has readings of its own, if any."""
        return [f"p99_{metric}", metric] if figure.startswith("p99_") else [metric]

    def _known(self, tier: str, kind: str) -> list[Residual]:
        own = self.by_kind.get((tier, kind))
        if own is not None and own.points >= FEW_POINTS:
            return [own]
        return [one for (_, known), one in self.by_kind.items() if known == kind]


@dataclass(frozen=True)
class Variant:
    """A cluster with other inputs that are as well founded. what: which, in words."""

    what: str
    spec: ClusterSpec


def variants(spec: ClusterSpec) -> list[Variant]:
    """The clusters that `spec` might as well be."""
    return [*_with_other_readings(spec), *_with_other_scaling(spec), *_with_other_misses(spec)]


def intervals_of(
    figures: Mapping[str, float | None], others: Sequence[Mapping[str, float | None]], tier: str, residuals: Residuals
) -> dict[str, Interval]:
    """The interval of each figure of METRICS that is not None. others: the same figures of the variants."""
    known = {name: value for name in METRICS if (value := figures.get(name)) is not None}
    return {
        name: interval_of(
            value,
            [other for each in others if (other := each.get(name)) is not None],
            residuals.of(tier, name),
        )
        for name, value in known.items()
    }


def hit_rate_interval(hit_rate: float, spec: ClusterSpec, others: Sequence[float] = ()) -> Interval:
    """That of the hit rate, over the errors of the law of misses; none where misses were measured. others: of the variants."""
    errors = NO_RESIDUAL if spec.measured_misses is not None else _miss_errors()
    misses = interval_of(1 - hit_rate, [1 - other for other in others], errors)
    return Interval(max(0.0, 1 - misses.high), hit_rate, min(1.0, 1 - misses.low))


@cache
def _miss_errors() -> Residual:
    """Of the law at the buffer of SAC's runs."""
    return Residual.of(
        BufferLaw.for_context(context).misses_per_step(SAC_BUFFER_SLOTS) / needed - 1
        for context, needed in MISSES_NEEDED.items()
    )


def _with_other_misses(spec: ClusterSpec) -> Iterator[Variant]:
    """A model that no misses are known of: those of another one's buffers, whatever the context."""
    given = spec.measured_misses is not None or spec.overlap is not None
    if spec.model.name == ModelShape().name or given or spec.fetch_profile is None:
        return
    k, slots = spec.model.top_k, spec.hot_buffer
    misses = GLM_MISSES_AT_K * k * (slots / k) ** -BUFFER_SLOPE
    yield Variant("misses of GLM-5.1's buffers", replace(spec, measured_misses=misses))


def _with_other_readings(spec: ClusterSpec) -> Iterator[Variant]:
    profile = spec.profile or (load_profile(name) if (name := _profile_name(spec)) else None)
    for other in other_readings(profile) if profile else []:
        yield Variant(f"profile {other.name}", replace(spec, profile=other))


def _profile_name(spec: ClusterSpec) -> str | None:
    return spec.policy.prefetch_profile or spec.policy.fetch_profile


def _with_other_scaling(spec: ClusterSpec) -> Iterator[Variant]:
    """A GPU or a model that nothing was fitted on: its costs without the ratio of each."""
    if spec.gpu != GpuSpec():
        costs = with_rdma(
            scaled_costs(replace(spec.gpu, hbm_bytes_per_ns=GpuSpec().hbm_bytes_per_ns), spec.model), spec.rdma
        )
        yield Variant("steps as slow as on the fitted GPU", replace(spec, costs=costs))
    if spec.model != ModelShape():
        costs = with_rdma(scaled_costs(spec.gpu, ModelShape()), spec.rdma)
        yield Variant("compute as of the fitted model", replace(spec, costs=costs))

"""The answer and not only numbers: who wins, from which concurrency on, and where that turns.
Knows simulations and bisection; prints nothing.

HBM only is compared as the cluster has it: by default at its kindest, where every prefix is in HBM without having been put there,
as long as its request runs. Orders are decided where intervals do not overlap.
CXL's latency is that of a 64 B read by a CPU, as it is published; the GPU's own way over PCIe comes on top (assumed to add
up, as in emulation.timing)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Literal

from emulation.say import Say
from emulation.serving.cluster import simulate
from emulation.serving.intervals import Residuals, variants
from emulation.serving.rivals import RivalPoint, point_of, rivals
from emulation.serving.spec import ClusterSpec
from emulation.serving.workload import ClosedLoop
from emulation.timing.interval import Interval, Order, interval_of
from emulation.timing.profile import GPU_READER, Bandwidth, Profile, load_profile
from emulation.timing.tiers import RIVALS, SERVED, TIERS

CONCURRENCIES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
LATENCIES_NS = (140, 220, 400, 750)  # the published range of CXL
BANDWIDTH_FACTORS = (0.25, 0.5, 1.0, 2.0)
LATENCY_LIMITS_NS = (1.0, 1_000_000.0)  # where tipping points are looked for
BANDWIDTH_LIMITS_BYTES_PER_NS = (0.02, 1000.0)


@dataclass(frozen=True)
class Setting:
    """What is compared: a closed loop on one cluster."""

    base: ClusterSpec
    context_tokens: int
    output_tokens: int = 1024
    concurrency: int = 64
    num_prompts: int = 512
    residuals: Residuals = field(default_factory=Residuals)

    def spec(self, tier: str, profile: Profile | None = None) -> ClusterSpec:
        """The cluster with its KV in `tier`."""
        return replace(self.base, tier=tier, profile=profile)

    def throughput(self, tier: str, concurrency: int | None = None, profile: Profile | None = None) -> float:
        """Output tokens per second of a tier; 0 where a request does not fit."""
        return self.throughput_of(self.spec(tier, profile), concurrency)

    def interval(self, spec: ClusterSpec, concurrency: int | None = None) -> Interval:
        """The throughput of a cluster with what is known of its inputs."""
        others = [self.throughput_of(other.spec, concurrency) for other in variants(spec)]
        residual = self.residuals.of(spec.tier, "output_throughput")
        return interval_of(self.throughput_of(spec, concurrency), others, residual)

    def throughput_of(self, spec: ClusterSpec, concurrency: int | None = None) -> float:
        """Output tokens per second of a cluster; 0 where a request does not fit."""
        concurrency = concurrency or self.concurrency
        workload = ClosedLoop(self.num_prompts, concurrency, self.context_tokens, self.output_tokens)
        if not spec.running_limit(workload.longest_len):
            return 0.0
        return simulate(spec, workload).recorder.summary().output_throughput


@dataclass(frozen=True)
class GridPoint:
    """CXL at one latency and device bandwidth: its throughput over each tier's, and whether the order is decided."""

    latency_ns: int
    device_bytes_per_ns: float
    ratios: dict[str, float]
    orders: dict[str, Order]


@dataclass(frozen=True)
class TippingPoint:
    """Where CXL and a rival change places along one quantity, to 1%; `at` None: nowhere within the limits looked at."""

    rival: str
    quantity: Literal["device_bytes_per_ns", "latency_ns"]
    latency_ns: int | None  # at which the bandwidth was varied
    at: float | None
    ahead_at_low: bool
    ahead_at_high: bool


@dataclass(frozen=True)
class Comparison:
    """The answer for one setting. throughputs: tier -> output tokens per second at each concurrency.

    hbm_crossover: least concurrency from which CXL's figure stays above that of HBM only; None: not within those looked at;
    hbm_decided: from which on the intervals do not overlap either. rivals: CXL beside the rivals on other figures of theirs.
    break_even_steps: n*, after which top-k fetches have moved more than one full prefix; None: not within as many steps
    as the context has tokens."""

    setting: Setting
    concurrencies: tuple[int, ...]
    throughputs: dict[str, list[Interval]]
    hbm_crossover: int | None
    hbm_decided: int | None
    break_even_steps: int | None
    grid: list[GridPoint]
    tipping_points: list[TippingPoint]
    rivals: list[RivalPoint]

    def ratio(self, other: str) -> float:
        """CXL's throughput over another tier's, at the setting's concurrency."""
        return _over(self.at_concurrency("cxl").value, self.at_concurrency(other).value)

    def order(self, other: str) -> Order:
        """How CXL lies to another tier, at the setting's concurrency."""
        return self.at_concurrency("cxl").order(self.at_concurrency(other))

    def at_concurrency(self, tier: str) -> Interval:
        """A tier's throughput at the setting's concurrency."""
        return self.throughputs[tier][self.concurrencies.index(self.setting.concurrency)]


def compare(
    setting: Setting,
    concurrencies: Sequence[int] = CONCURRENCIES,
    on_progress: Say = lambda _: None,
) -> Comparison:
    """Run the tiers against one another and look for the points where the order changes."""
    sampled = tuple(sorted({*concurrencies, setting.concurrency}))
    throughputs: dict[str, list[Interval]] = {}
    for tier in SERVED:
        on_progress(f"{setting.context_tokens} tokens, {tier}, {len(sampled)} concurrencies")
        throughputs[tier] = [setting.interval(setting.spec(tier), concurrency) for concurrency in sampled]
    place = sampled.index(setting.concurrency)
    others = {tier: throughputs[tier][place] for tier in SERVED if tier != "cxl"}
    on_progress(f"{setting.context_tokens} tokens, latency and bandwidth of the pool")
    grid = [_grid_point(setting, latency, factor, others) for latency in LATENCIES_NS for factor in BANDWIDTH_FACTORS]
    tipping = [point for rival in RIVALS for point in _tipping_points(setting, rival, others[rival].value)]
    on_progress(f"{setting.context_tokens} tokens, figures of the rivals")
    return Comparison(
        setting,
        sampled,
        throughputs,
        _crossover(sampled, throughputs, lambda cxl, hbm: cxl.value > hbm.value),
        _crossover(sampled, throughputs, lambda cxl, hbm: cxl.order(hbm) is Order.AHEAD),
        break_even_steps(setting.base, setting.context_tokens),
        grid,
        tipping,
        [point_of(rival, setting.interval(rival.spec), throughputs["cxl"][place]) for rival in rivals(setting.base)],
    )


def break_even_steps(spec: ClusterSpec, context_tokens: int) -> int | None:
    """n*: the first decode step after which top-k fetches have moved more rows than the full prefix has.
    None where that takes more steps than the context has tokens, as with a buffer that holds it all."""
    law = spec.miss_law(context_tokens)

    def moved(num_steps: int) -> float:
        return law.total_misses(spec.hot_buffer, num_steps)

    if moved(context_tokens) <= context_tokens:
        return None
    low, high = 0, context_tokens
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if moved(middle) > context_tokens else (middle, high)
    return high


def pool_profile(latency_ns: float, device_bytes_per_ns: float | None = None) -> Profile:
    """The SAC testbed's pool with another CPU-read latency and device bandwidth (GB/s), its ports never the bound."""
    profile = load_profile(TIERS["cxl"].gpu)
    device = profile.device
    if device_bytes_per_ns is not None:
        factor = device_bytes_per_ns / device.read_bytes_per_ns
        device = Bandwidth(device_bytes_per_ns, device.write_bytes_per_ns * factor)
    port = Bandwidth(*(max(rates) for rates in zip(_rates(profile.port), _rates(device), strict=True)))
    gpu_latency_ns = load_profile(GPU_READER).read_latency_ns + round(latency_ns)
    return replace(profile, read_latency_ns=gpu_latency_ns, device=device, port=port)


def _rates(bandwidth: Bandwidth) -> tuple[float, float]:
    return bandwidth.read_bytes_per_ns, bandwidth.write_bytes_per_ns


def _crossover(
    concurrencies: Sequence[int],
    throughputs: dict[str, list[Interval]],
    ahead: Callable[[Interval, Interval], bool],
) -> int | None:
    """The least concurrency from which on CXL is `ahead` of HBM only at all of them."""
    crossover = None
    for concurrency, cxl, hbm in zip(concurrencies, throughputs["cxl"], throughputs["hbm"], strict=True):
        if not ahead(cxl, hbm):
            crossover = None
        elif crossover is None:
            crossover = concurrency
    return crossover


def _grid_point(setting: Setting, latency_ns: int, factor: float, others: dict[str, Interval]) -> GridPoint:
    rate = load_profile(TIERS["cxl"].gpu).device.read_bytes_per_ns * factor
    residual = setting.residuals.of("cxl", "output_throughput")
    cxl = interval_of(setting.throughput("cxl", profile=pool_profile(latency_ns, rate)), residual=residual)
    ratios = {tier: _over(cxl.value, other.value) for tier, other in others.items()}
    return GridPoint(latency_ns, rate, ratios, {tier: cxl.order(other) for tier, other in others.items()})


def _tipping_points(setting: Setting, rival: str, rival_throughput: float) -> list[TippingPoint]:
    """Along the bandwidth at the least and the most published latency, and along the latency at the profile's bandwidth."""

    def ahead(latency_ns: float, rate: float | None) -> bool:
        return setting.throughput("cxl", profile=pool_profile(latency_ns, rate)) > rival_throughput

    points = [_tipping_point(lambda latency: ahead(latency, None), LATENCY_LIMITS_NS, rival, "latency_ns", None)]
    for latency_ns in (LATENCIES_NS[0], LATENCIES_NS[-1]):

        def ahead_at(rate: float, latency_ns: int = latency_ns) -> bool:
            return ahead(latency_ns, rate)

        points.append(_tipping_point(ahead_at, BANDWIDTH_LIMITS_BYTES_PER_NS, rival, "device_bytes_per_ns", latency_ns))
    return points


def _tipping_point(
    ahead: Callable[[float], bool],
    limits: tuple[float, float],
    rival: str,
    quantity: Literal["device_bytes_per_ns", "latency_ns"],
    latency_ns: int | None,
) -> TippingPoint:
    at_low, at_high = ahead(limits[0]), ahead(limits[1])
    at = None if at_low == at_high else _bisect(lambda value: ahead(value) == at_high, *limits)
    return TippingPoint(rival, quantity, latency_ns, at, at_low, at_high)


def _bisect(turned: Callable[[float], bool], low: float, high: float, precision: float = 1.01) -> float:
    """Where `turned` goes from False at `low` to True at `high`, to 1%."""
    while high / low > precision:
        middle = sqrt(low * high)
        low, high = (low, middle) if turned(middle) else (middle, high)
    return high


def _over(figure: float, other: float) -> float:
    return figure / other if other else float("inf")

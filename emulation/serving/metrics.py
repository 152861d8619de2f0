"""What a run yields: latencies, throughput, where the time went. Knows requests and durations, no cluster.
Names are those of sglang.bench_serving. Memory: 24 B per finished request, and a histogram."""

from array import array
from dataclasses import asdict, dataclass
from math import ceil, exp, log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.serving.slo import GoodCounter
from emulation.serving.workload import NS_PER_S, Request

NS_PER_MS = 1e6
PERCENTILES = (50, 90, 95, 99)
_BINS_PER_E = 200  # of the gaps between tokens: 0.5% wide


@dataclass
class TimeSpent:
    """Request-ns spent in each state, all requests together. Their sum is the sum of all latencies (Little's law)."""

    tokenise: float = 0.0  # before it reaches its server
    queue: float = 0.0  # for HBM, or for the GPU to prefill others
    prefetch: float = 0.0  # its prefix is on the way, or waits for another's
    prefill: float = 0.0
    compute: float = 0.0
    fetch: float = 0.0
    slowed: float = 0.0  # decode stands still for prefix transfers
    stalled: float = 0.0  # the server prefills others, or its own keys are loaded after the first token

    def total_ns(self) -> float:
        return float(sum(vars(self).values()))


class Distribution(NamedTuple):
    """Mean and percentiles of latencies, in ms; None where there was none to measure."""

    mean: float | None
    median: float | None
    p90: float | None
    p95: float | None
    p99: float | None


NOTHING = Distribution(None, None, None, None, None)


@dataclass(frozen=True)
class Summary:
    """Figures of a run, those of sglang.bench_serving; rates per second.

    ttft: to the first token; tpot: mean time per later token of a request; itl: gaps between tokens; e2e_latency: to the last
    token; concurrency: mean number of requests under way; hit_rate: chosen entries found in hot buffers."""

    duration_s: float
    completed: int
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: float
    output_throughput: float
    concurrency: float
    hit_rate: float
    ttft_ms: Distribution
    tpot_ms: Distribution
    e2e_latency_ms: Distribution
    itl_ms: Distribution


class GapHistogram:
    """Gaps between a request's tokens, each weighted by the tokens it stands for, in bins of 0.5%.

    spread: sigma of ln of a step's time about its mean; on a logarithmic axis it smears each bin by a bell."""

    def __init__(self, spread: float = 0.0) -> None:
        self._spread = spread
        self._weights: dict[int, float] = {}

    def add(self, gap_ns: float, num_tokens: float) -> None:
        if num_tokens > 0:
            bin_number = round(log(max(gap_ns, 1.0)) * _BINS_PER_E)
            self._weights[bin_number] = self._weights.get(bin_number, 0.0) + num_tokens

    def percentile(self, percent: float) -> float:
        """The gap in ns that `percent` of the tokens do not exceed; 0 where there are none."""
        if not self._weights:
            return 0.0
        first, last = min(self._weights), max(self._weights)
        reach = ceil(4 * self._spread * _BINS_PER_E)
        weights = np.zeros(last - first + 1)
        weights[np.fromiter(self._weights, dtype=np.int64) - first] = list(self._weights.values())
        smeared = np.convolve(weights, self._bell(reach))
        place = int(np.searchsorted(np.cumsum(smeared), smeared.sum() * percent / 100 * (1 - 1e-12)))
        return exp((first - reach + place) / _BINS_PER_E)

    def _bell(self, reach: int) -> NDArray[np.float64]:
        """Shares by bin of a lognormal law whose mean is 1."""
        if not reach:
            return np.ones(1)
        at = np.arange(-reach, reach + 1) / _BINS_PER_E
        bell = np.exp(-(((at + self._spread**2 / 2) / self._spread) ** 2) / 2)
        return np.asarray(bell / bell.sum())


class Meter:
    """One server's share in a recorder: it remembers for how long decoding has stood still."""

    def __init__(self, recorder: "Recorder") -> None:
        self._spent, self._gaps = recorder.spent, recorder.gaps
        self._stalled_ns = 0.0

    def decode(self, elapsed_ns: float, num_decoding: int, steps: float, compute: float, fetch: float) -> None:
        """Book time of the requests that decode, `steps` steps. compute, fetch: parts of a step's time that are compute and
        waiting for rows; the rest goes to others' prefill."""
        spent, request_ns = self._spent, num_decoding * elapsed_ns
        spent.compute += request_ns * compute
        spent.fetch += request_ns * fetch
        spent.stalled += request_ns * (1 - compute - fetch)
        step_ns = elapsed_ns / steps
        if self._stalled_ns:
            late = min(1.0, steps)
            self._gaps.add(step_ns + self._stalled_ns, num_decoding * late)
            steps -= late
            self._stalled_ns = 0.0
        self._gaps.add(step_ns, num_decoding * steps)

    def stand_still(self, elapsed_ns: float, num_decoding: int, held: bool) -> None:
        """Book a standstill of the requests that decode, which the next token's gap will show. held: for transfers."""
        self._stalled_ns += elapsed_ns
        if held:
            self._spent.slowed += num_decoding * elapsed_ns
        else:
            self._spent.stalled += num_decoding * elapsed_ns


class Recorder:
    """Collects what finishes. All times in ns."""

    def __init__(self, top_k: int, step_spread: float = 0.0, good: GoodCounter | None = None) -> None:
        self._top_k = top_k
        self.good = good  # counts what meets an SLO, if there is one
        self.arrived_ns = array("d")
        self.prompt_lens = array("q")
        self.output_lens = array("q")
        self.ttft_ns = array("d")
        self.tpot_ns = array("d")
        self.e2e_ns = array("d")
        self.spent = TimeSpent()
        self.gaps = GapHistogram(step_spread)
        self.num_input_tokens = 0
        self.num_output_tokens = 0
        self.missed_entries = 0.0  # per layer
        self.chosen_entries = 0.0
        self.finished_ns = 0.0

    @property
    def completed(self) -> int:
        return len(self.e2e_ns)

    def meter(self) -> Meter:
        return Meter(self)

    def finish(self, request: Request, arrived_ns: float, first_token_ns: float, now_ns: float, entries: float) -> None:
        """Book a finished request; `entries`: what it missed per layer and step."""
        steps = request.output_len - 1
        self.arrived_ns.append(arrived_ns)
        self.prompt_lens.append(request.prompt_len)
        self.output_lens.append(request.output_len)
        self.ttft_ns.append(first_token_ns - arrived_ns)
        self.e2e_ns.append(now_ns - arrived_ns)
        tpot_ns = (now_ns - first_token_ns) / steps if steps else 0.0
        if steps:
            self.tpot_ns.append(tpot_ns)
        if self.good is not None:
            self.good.add(first_token_ns - arrived_ns, tpot_ns)
        self.num_input_tokens += request.prompt_len
        self.num_output_tokens += request.output_len
        self.missed_entries += entries * steps
        self.chosen_entries += min(self._top_k, request.prompt_len) * steps
        self.finished_ns = max(self.finished_ns, now_ns)

    def summary(self) -> Summary:
        """What the requests that have finished come to."""
        duration_s = self.finished_ns / NS_PER_S
        return Summary(
            duration_s=duration_s,
            completed=self.completed,
            total_input_tokens=self.num_input_tokens,
            total_output_tokens=self.num_output_tokens,
            request_throughput=_rate(self.completed, duration_s),
            output_throughput=_rate(self.num_output_tokens, duration_s),
            concurrency=_rate(sum(self.e2e_ns) / NS_PER_S, duration_s),
            hit_rate=1 - self.missed_entries / self.chosen_entries if self.chosen_entries else 1.0,
            ttft_ms=_distribution(np.asarray(self.ttft_ns)),
            tpot_ms=_distribution(np.asarray(self.tpot_ns)),
            e2e_latency_ms=_distribution(np.asarray(self.e2e_ns)),
            itl_ms=self._gaps(),
        )

    def seconds_per_request(self) -> dict[str, float]:
        """Mean time that a request spent in each state of TimeSpent, s."""
        return {state: spent / NS_PER_S / self.completed for state, spent in asdict(self.spent).items()}

    def latency_cdf(self, num_points: int = 100) -> dict[str, list[float]]:
        """Latencies in ms at `num_points` even steps of the distribution, for plots."""
        at = np.linspace(0, 100, num_points + 1)
        return {
            name: (np.percentile(np.asarray(values), at) / NS_PER_MS).tolist() if len(values) else []
            for name, values in (("ttft", self.ttft_ns), ("tpot", self.tpot_ns), ("e2e_latency", self.e2e_ns))
        }

    def _gaps(self) -> Distribution:
        num_gaps = self.num_output_tokens - self.completed
        if not num_gaps:
            return NOTHING
        decoding_ns = sum(self.e2e_ns) - sum(self.ttft_ns)
        percentiles = (self.gaps.percentile(percent) / NS_PER_MS for percent in PERCENTILES)
        return Distribution(_rate(decoding_ns, num_gaps) / NS_PER_MS, *percentiles)


def _rate(amount: float, time: float) -> float:
    return amount / time if time else 0.0


def _distribution(values_ns: NDArray[np.float64]) -> Distribution:
    if not values_ns.size:
        return NOTHING
    percentiles = np.percentile(values_ns, PERCENTILES) / NS_PER_MS
    return Distribution(float(values_ns.mean()) / NS_PER_MS, *map(float, percentiles))

"""How many entries a hot buffer misses, in closed form; and the measurement on the runtime's own buffer that it is held to.
Knows probabilities and the buffer's rule, no time and no bytes.

Mechanism. The tokens touched in t steps follow a power law, touched(t) = k t^e (Heaps' law): it is k at t = 1 and, with
the exponent e of the context length, meets SAC's Fig 4 at t = 1024. An LRU buffer of B slots holds what the last t* steps
touched, touched(t*) = B, and by Denning's working-set theorem misses what one more step would add to that:

    misses a step = touched(t* + 1) - touched(t*),   t* = (B / k)^(1/e)

The step is finite: the slope e B / t* would be a quarter too high where the buffer is little larger than k.

Fig 4 alone thus says what Fig 10 must show: 22, 45, 79 and 124 misses at 6144 slots and 16K to 128K of context. Fig 10's
gap between CXL and DRAM, at the devices' shared bandwidth, needs 33, 50, 78 and 128. Consecutive steps then share
2 - 2^e (70-80%) of their choice, more than the 35-50% reported for other models' middle layers: give `overlap` and sweep.

Until B tokens have been touched each one is a miss; a context no longer than B has no others."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from emulation.errors import InputError
from sac_runtime.fetch.hot_buffer import HotBuffer
from sac_runtime.rows.layout import FloatArray, IntArray
from sac_runtime.traces.format import TraceReader

FOOTPRINT_STEPS = 1024
FOOTPRINT_AT_16K = 12_240  # tokens touched in 1K steps [SAC Fig 4: 0.86 GB of 70,272 B]
FOOTPRINT_EXPONENT = 0.398  # of the context length, fitted to SAC Fig 4's four points

_NEVER_STEPS = 1e12


def footprint_tokens(context_tokens: int) -> float:
    """Tokens touched while 1024 tokens are produced at top_k 2048. Source: SAC Fig 4, within 5%."""
    return min(float(context_tokens), FOOTPRINT_AT_16K * math.pow(context_tokens / 16384, FOOTPRINT_EXPONENT))


@dataclass(frozen=True)
class MissModel:
    """Misses of one layer of one request under the power law touched(t) = chosen x t^exponent."""

    context_tokens: int
    top_k: int
    exponent: float

    @classmethod
    def for_context(cls, context_tokens: int, top_k: int = 2048, overlap: float | None = None) -> "MissModel":
        """The model of a context length; `overlap` (0..1) of consecutive steps sets the exponent in place of Fig 4."""
        if overlap is not None:
            return cls(context_tokens, top_k, math.log2(2 - overlap))
        touched = footprint_tokens(max(1, context_tokens)) / min(top_k, max(1, context_tokens))
        return cls(context_tokens, top_k, math.log(max(touched, 1.01)) / math.log(FOOTPRINT_STEPS))

    @property
    def chosen(self) -> int:
        """Entries chosen at a step."""
        return min(self.top_k, self.context_tokens)

    @property
    def overlap(self) -> float:
        """Share of the choice that consecutive steps have in common."""
        return float(2 - 2**self.exponent)

    def touched(self, num_steps: float) -> float:
        """Tokens touched at least once in `num_steps` steps."""
        return float(min(self.context_tokens, self.chosen * num_steps**self.exponent))

    def misses_per_step(self, buffer_slots: int) -> float:
        """Misses a step once the buffer is full: what one more step adds to `touched` where it equals `buffer_slots`."""
        if self.context_tokens <= buffer_slots:
            return 0.0
        return buffer_slots * math.expm1(self.exponent * math.log1p(1 / self._filling_steps(buffer_slots)))

    def total_misses(self, buffer_slots: int, num_steps: int) -> float:
        """Misses of the first `num_steps` steps, from an empty buffer."""
        if num_steps <= 0 or self.chosen <= 0:
            return 0.0
        filling = self._filling_steps(buffer_slots)
        if self.context_tokens <= buffer_slots or num_steps <= filling:
            return self.touched(num_steps)
        return min(
            buffer_slots + self.misses_per_step(buffer_slots) * (num_steps - filling),
            float(self.chosen * num_steps),
        )

    def _filling_steps(self, buffer_slots: int) -> float:
        """Steps until `buffer_slots` tokens have been touched."""
        if self.chosen < 1 or self.exponent <= 0:
            return _NEVER_STEPS
        return math.exp(min(math.log(buffer_slots / self.chosen) / self.exponent, math.log(_NEVER_STEPS)))


def power_law_steps(context_tokens: int, top_k: int, exponent: float, num_steps: int, seed: int) -> Iterator[IntArray]:
    """Top-k choices (k,) int64 that touch top_k t^exponent tokens in t steps, step by step; same seed, same steps.

    Token of rank r is chosen at a step with probability 1 - exp(-(C / r)^(1/e)), C = k / Gamma(1 - e): the measure whose
    expected number of touched tokens is the power law. A fixed number is drawn by Pareto sampling (Rosen, 1997)."""
    rng = np.random.default_rng(seed)
    ranks = np.arange(1, context_tokens + 1) - 0.5
    chosen = -np.expm1(-((top_k / math.gamma(1 - exponent) / ranks) ** (1 / exponent)))
    odds_against = (1 - chosen) / np.maximum(chosen, 1e-300)
    tokens = rng.permutation(context_tokens)
    for _ in range(num_steps):
        draw = rng.random(context_tokens)
        keys = draw / (1 - draw) * odds_against
        yield np.sort(tokens[np.argpartition(keys, top_k - 1)[:top_k]])


def measure_misses(steps: Iterable[IntArray], buffer_slots: int, top_k: int) -> IntArray:
    """Misses of each step, (t,) int64, by the runtime's own HotBuffer, from an empty one."""
    buffer = HotBuffer(buffer_slots, top_k)
    return np.array([buffer.plan(step).misses for step in steps], dtype=np.int64)


def measure_trace(trace: TraceReader, buffer_slots: int, top_k: int = 2048) -> float:
    """Misses a step of one layer, mean over a recorded trace's requests, layers and second half (buffers full), at a model's
    `top_k`: a trace of another top-k scales slots and misses alike. Raises InputError for fewer than two steps."""
    header, scale = trace.header, trace.header.top_k / top_k
    shape = (header.num_requests, header.num_layers)
    buffers = [[HotBuffer(max(header.top_k, round(buffer_slots * scale)), header.top_k) for _ in range(shape[1])]
               for _ in range(shape[0])]  # fmt: skip
    misses = [
        sum(
            buffers[request][layer].plan(tokens).misses
            for request, layers in enumerate(step.topk)
            for layer, tokens in enumerate(layers)
        )
        for step in trace
    ]
    if len(misses) < 2:
        raise InputError(f"trace: {len(misses)} step(s); at least 2 are needed, as the first one misses everything")
    later = misses[len(misses) // 2 :]
    return sum(later) / len(later) / (shape[0] * shape[1]) / scale


def fit_exponent(steps: Iterable[IntArray]) -> float:
    """The exponent of Heaps' law that best fits a recorded trace of one layer, by least squares on log touched.
    Raises InputError for a trace of fewer than two steps."""
    seen: set[int] = set()
    touched = [len(seen := seen | set(step.tolist())) for step in steps]
    if len(touched) < 2:
        raise InputError(f"trace: {len(touched)} step(s); at least 2 are needed to fit how its footprint grows")
    times: FloatArray = np.log(np.arange(1, len(touched) + 1))
    growth = np.log(np.asarray(touched) / touched[0])
    return float(times @ growth / (times @ times))

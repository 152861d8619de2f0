"""Laws of hot-buffer misses: how many of the entries that a layer's top-k chooses are not in its buffer. Knows probabilities
and the buffer's rule, no time and no bytes.

One quantity, one interface (`MissLaw`), one law by default (`BufferLaw`), and two instances for those who bring more:

    buffer      the default of `cxlbed serve`. Falls with the buffer's size as published, and ends at Fig 4's compulsory misses.
    measured    `cxlbed serve --topk-trace`: a recorded trace through the runtime's own buffer.
    reuse       what the choices that `cxlbed run` replays miss (sac_runtime.traces.synthetic), in closed form.

The buffer law. Two publications say different things of the same curve:
- SAC's Fig 4: a request touches T tokens in 1024 steps. With a buffer of T slots only first touches miss, T / 1024 per step:
  the compulsory misses.
- GLM-5.1 (arXiv 2608.07009): a buffer of k, 2k, 4k slots misses 30.0, 13.4, 6.7% of k. On logarithmic axes that is a line
  of slope -1.08.
The law is the line of that slope through that point:

    misses per step = T / 1024 x (T / B)^1.08,   no less than T / 1024

No serving figure is fitted. At GLM-5.1's own context length (202,752 tokens, Fig 4 extrapolated) it says 32, 15 and 7% of k,
and at 6144 slots 25, 45, 79 and 141 misses at 16K to 128K, where the gap between CXL and DRAM in Fig 10, at the devices'
shared bandwidth, needs 33, 50, 78 and 128. The share of the choice that consecutive steps have in common is what a buffer
of k slots finds: 1 - misses(k) / k; give `overlap` to set it, and the curve shifts with it.

Until B tokens have been touched each touch is a miss; touched(t) = k t^e (Heaps' law) meets Fig 4 at t = 1024. A context no
longer than B has no other misses.

Layers differ: 17 to 600 misses over the layers of one model [HiSparse]. `layer_shares` spreads the mean over them."""

import math
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import NormalDist
from typing import Protocol, Self

from emulation.errors import InputError
from sac_runtime.rows.layout import DEEPSEEK_TOP_K
from sac_runtime.traces.replay import PlanOnly, Replay
from sac_runtime.traces.synthetic import LayerModel, SyntheticSpec
from sac_runtime.traces.tables import Trace

FOOTPRINT_STEPS = 1024
FOOTPRINT_AT_16K = 12_240  # tokens touched in 1K steps [SAC Fig 4: 0.86 GB of 70,272 B]
FOOTPRINT_EXPONENT = 0.398  # of the context length, fitted to SAC Fig 4's four points

BUFFER_SLOPE = math.log(0.300 / 0.067) / math.log(
    4
)  # of misses in the buffer's size: 30.0, 13.4, 6.7% of k at k, 2k, 4k
LAYER_SPREAD = math.log(600 / 17) / (
    2 * NormalDist().inv_cdf(60.5 / 61)
)  # sigma of ln: 61 layers from 17 to 600 [HiSparse]

_NEVER_STEPS = 1e12


class MissLaw(Protocol):
    """Misses of one request per layer, mean over its layers, with a hot buffer of `buffer_slots` slots.
    name, source: which law, on what evidence."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...

    def misses_per_step(self, buffer_slots: int) -> float:
        """Misses per decode step once the buffer is full; 0 for a context that fits it."""

    def filling_steps(self, buffer_slots: int) -> float:
        """Steps until the buffer is full; each touch is a miss until then."""

    def total_misses(self, buffer_slots: int, num_steps: float) -> float:
        """Misses of the first `num_steps` steps, from an empty buffer."""


def footprint_tokens(context_tokens: int) -> float:
    """Tokens touched while 1024 tokens are produced at top_k 2048. Source: SAC Fig 4, within 5%."""
    return min(float(context_tokens), FOOTPRINT_AT_16K * math.pow(context_tokens / 16384, FOOTPRINT_EXPONENT))


@cache
def layer_shares(num_layers: int, spread: float = LAYER_SPREAD) -> tuple[float, ...]:
    """Misses of each layer over their mean, ascending; the quantiles of a lognormal law of that sigma. Their mean is 1."""
    normal = NormalDist()
    shares = [math.exp(spread * normal.inv_cdf((layer + 0.5) / num_layers)) for layer in range(num_layers)]
    return tuple(share * num_layers / sum(shares) for share in shares)


@dataclass(frozen=True)
class BufferLaw:
    """The default law; see the module's head. touched_tokens: in 1024 steps; overlap: of consecutive steps, if given."""

    context_tokens: int
    top_k: int
    touched_tokens: float
    given_overlap: float | None = None
    name: str = "buffer"
    source: str = "slope of GLM-5.1's buffers (arXiv 2608.07009), compulsory misses of SAC's Fig 4"

    @classmethod
    def for_context(cls, context_tokens: int, top_k: int = DEEPSEEK_TOP_K, overlap: float | None = None) -> "BufferLaw":
        """The law of a context length; `overlap` (0..1) of consecutive steps sets the curve's height in place of Fig 4."""
        touched = footprint_tokens(max(1, context_tokens))
        if overlap is not None:
            return cls(context_tokens, top_k, touched, overlap, source=f"overlap of {overlap:g}, as given")
        return cls(context_tokens, top_k, touched)

    @cached_property
    def chosen(self) -> int:
        """Entries chosen at a step."""
        return min(self.top_k, self.context_tokens)

    @cached_property
    def exponent(self) -> float:
        """Of the tokens touched in t steps, chosen x t^exponent."""
        touched = self.touched_tokens / max(1, self.chosen)
        return math.log(max(touched, 1.01)) / math.log(FOOTPRINT_STEPS)

    @property
    def overlap(self) -> float:
        """Share of the choice that consecutive steps have in common: what a buffer of top_k slots finds."""
        return 1 - self._misses(self.chosen) / self.chosen

    def touched(self, num_steps: float) -> float:
        """Tokens touched at least once in `num_steps` steps."""
        return float(min(self.context_tokens, self.chosen * num_steps**self.exponent))

    def misses_per_step(self, buffer_slots: int) -> float:
        """As MissLaw."""
        return 0.0 if self.context_tokens <= buffer_slots else self._misses(buffer_slots)

    def filling_steps(self, buffer_slots: int) -> float:
        """Steps until `buffer_slots` tokens have been touched and the buffer is full; endless where the context fits it."""
        if self.chosen < 1 or self.context_tokens <= buffer_slots:
            return _NEVER_STEPS
        return math.exp(min(math.log(buffer_slots / self.chosen) / self.exponent, math.log(_NEVER_STEPS)))

    def total_misses(self, buffer_slots: int, num_steps: float) -> float:
        """As MissLaw."""
        if num_steps <= 0 or self.chosen <= 0:
            return 0.0
        filling = self.filling_steps(buffer_slots)
        if num_steps <= filling:
            return self.touched(num_steps)
        total = buffer_slots + self._misses(buffer_slots) * (num_steps - filling)
        return float(min(total, self.chosen * num_steps))

    def _misses(self, buffer_slots: int) -> float:
        compulsory = self.touched_tokens / FOOTPRINT_STEPS
        if self.given_overlap is not None:
            misses = (1 - self.given_overlap) * self.chosen * (self.chosen / buffer_slots) ** BUFFER_SLOPE
        else:
            misses = compulsory * (self.touched_tokens / buffer_slots) ** BUFFER_SLOPE
        return float(min(self.chosen, max(compulsory, misses)))


@dataclass(frozen=True)
class ReuseLaw:
    """What LRU buffers miss of the synthetic choices of `spec`, mean over its layers, in closed form (`LayerModel`)."""

    spec: SyntheticSpec
    name: str = "reuse"
    source: str = "overlap of consecutive steps, HiSparse; tokens touched in 1K steps, SAC Fig 4"

    def misses_per_step(self, buffer_slots: int) -> float:
        """As MissLaw, by Che's approximation."""
        if self.spec.context_tokens <= buffer_slots:
            return 0.0
        return self._mean([layer.expected_misses(buffer_slots) for layer in self._layers])

    def total_misses(self, buffer_slots: int, num_steps: float) -> float:
        """As MissLaw: every token touched until the buffer is full, then the same number per step."""
        if num_steps <= 0:
            return 0.0
        per_step, touched = self.misses_per_step(buffer_slots), self._touched(num_steps)
        if not per_step or touched <= buffer_slots:
            return touched
        return buffer_slots + per_step * (num_steps - self.filling_steps(buffer_slots))

    def filling_steps(self, buffer_slots: int) -> float:
        """As MissLaw."""
        least, most = 0.0, float(self.spec.context_tokens)
        if self._touched(most) < buffer_slots:
            return _NEVER_STEPS
        for _ in range(40):
            middle = (least + most) / 2
            least, most = (middle, most) if self._touched(middle) < buffer_slots else (least, middle)
        return most

    def _touched(self, num_steps: float) -> float:
        return min(self.spec.context_tokens, self._mean([layer.expected_touched(num_steps) for layer in self._layers]))

    @cached_property
    def _layers(self) -> list[LayerModel]:
        return [self.spec.layer(layer) for layer in range(len(self.spec.overlaps))]

    def _mean(self, by_layer: list[float]) -> float:
        return sum(by_layer) / len(by_layer)


@dataclass(frozen=True)
class MeasuredLaw:
    """Misses per layer and step that a recorded trace had in buffers of one size; the same for every buffer that is asked for."""

    measured: float
    name: str = "measured"
    source: str = "a recorded trace through the runtime's hot buffer"

    @classmethod
    def of_trace(cls, trace: Trace, buffer_slots: int, top_k: int = DEEPSEEK_TOP_K) -> Self:
        """Mean over a trace's requests, layers and second half (buffers full), at a model's `top_k`: a trace of another
        top-k scales slots and misses alike. Raises InputError for fewer than two steps."""
        header, scale = trace.header, trace.header.top_k / top_k
        capacity = max(header.top_k, round(buffer_slots * scale))
        replay = Replay(header, [PlanOnly.of(header, capacity, number) for number in range(header.num_requests)])
        misses = [sum(plan.misses for layers in replay.step(step).plans for plan in layers) for step in trace]
        if len(misses) < 2:
            raise InputError(f"trace: {len(misses)} step(s); at least 2 are needed, as the first one misses everything")
        later = misses[len(misses) // 2 :]
        return cls(sum(later) / len(later) / (header.num_requests * header.num_layers) / scale)

    def misses_per_step(self, buffer_slots: int) -> float:
        """As MissLaw."""
        return self.measured

    def filling_steps(self, buffer_slots: int) -> float:
        """As MissLaw; what was measured has no such part."""
        return 0.0

    def total_misses(self, buffer_slots: int, num_steps: float) -> float:
        """As MissLaw; the steps that fill the buffer count as any other."""
        return self.measured * num_steps

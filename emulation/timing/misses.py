"""Laws of hot-buffer misses: how many of the entries that a layer's top-k chooses are not in its buffer. Knows probabilities
and the buffer's rule, no time and no bytes.

One quantity, one interface (`MissLaw`), three instances. They answer from different evidence and disagree; each names itself
and its source, and `cxlbed calibrate` shows them beside one another:

    footprint   `cxlbed serve`, unless it is given a trace. Closed form, from the tokens that a request touches in 1K steps
                (SAC, Fig 4). At 6144 slots and 16K, 32K, 64K, 128K of context: 22, 45, 79, 124 misses per layer and step.
    reuse       the choices that `cxlbed run` and its table of relative latency replay (sac_runtime.traces.synthetic). From the
                share of the top-k that consecutive steps have in common (35 to 50%, HiSparse) and the same footprint:
                130, 136, 140, 146, mean of 61 layers.
    measured    `cxlbed serve --topk-trace`: a recorded trace through the runtime's own buffer.

They differ up to sixfold since the footprint alone asks for 70 to 80% of overlap: tokens that come back after a long time
count once in a footprint, and each time in a buffer that has let them go meanwhile.

Footprint. The tokens touched in t steps follow a power law, touched(t) = k t^e (Heaps' law): it is k at t = 1 and, with
the exponent e of the context length, meets SAC's Fig 4 at t = 1024. An LRU buffer of B slots holds what the last t* steps
touched, touched(t*) = B, and by Denning's working-set theorem misses what one more step would add to that:

    misses per step = touched(t* + 1) - touched(t*),   t* = (B / k)^(1/e)

The step is finite: the slope e B / t* would be a quarter too high where the buffer is little larger than k. Fig 10's gap
between CXL and DRAM, at the devices' shared bandwidth, needs 33, 50, 78 and 128 misses. Consecutive steps then share
2 - 2^e of their choice: give `overlap` and sweep.

Until B tokens have been touched each one is a miss; a context no longer than B has no others."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

from emulation.errors import InputError
from sac_runtime.rows.layout import DEEPSEEK_TOP_K
from sac_runtime.traces.replay import PlanOnly, Replay
from sac_runtime.traces.synthetic import LayerModel, SyntheticSpec
from sac_runtime.traces.tables import Trace

FOOTPRINT_STEPS = 1024
FOOTPRINT_AT_16K = 12_240  # tokens touched in 1K steps [SAC Fig 4: 0.86 GB of 70,272 B]
FOOTPRINT_EXPONENT = 0.398  # of the context length, fitted to SAC Fig 4's four points

_NEVER_STEPS = 1e12


class MissLaw(Protocol):
    """Misses of one layer of one request, whose hot buffer has `buffer_slots` slots. name, source: which law, on what evidence."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...

    def misses_per_step(self, buffer_slots: int) -> float:
        """Misses per decode step once the buffer is full; 0 for a context that fits it."""

    def total_misses(self, buffer_slots: int, num_steps: int) -> float:
        """Misses of the first `num_steps` steps, from an empty buffer."""


def footprint_tokens(context_tokens: int) -> float:
    """Tokens touched while 1024 tokens are produced at top_k 2048. Source: SAC Fig 4, within 5%."""
    return min(float(context_tokens), FOOTPRINT_AT_16K * math.pow(context_tokens / 16384, FOOTPRINT_EXPONENT))


@dataclass(frozen=True)
class FootprintLaw:
    """The power law touched(t) = chosen x t^exponent; see the module's head."""

    context_tokens: int
    top_k: int
    exponent: float
    name: str = "footprint"
    source: str = "tokens touched in 1K steps, SAC Fig 4"

    @classmethod
    def for_context(
        cls, context_tokens: int, top_k: int = DEEPSEEK_TOP_K, overlap: float | None = None
    ) -> "FootprintLaw":
        """The law of a context length; `overlap` (0..1) of consecutive steps sets the exponent in place of Fig 4."""
        if overlap is not None:
            return cls(context_tokens, top_k, math.log2(2 - overlap), source=f"overlap of {overlap:g}, as given")
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
        """As MissLaw: what one more step adds to `touched` where it equals `buffer_slots`."""
        if self.context_tokens <= buffer_slots:
            return 0.0
        return buffer_slots * math.expm1(self.exponent * math.log1p(1 / self._filling_steps(buffer_slots)))

    def total_misses(self, buffer_slots: int, num_steps: int) -> float:
        """As MissLaw."""
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

    def total_misses(self, buffer_slots: int, num_steps: int) -> float:
        """As MissLaw: every token touched until the buffer is full, then the same number per step."""
        if num_steps <= 0:
            return 0.0
        per_step, touched = self.misses_per_step(buffer_slots), self._touched(num_steps)
        if not per_step or touched <= buffer_slots:
            return touched
        return buffer_slots + per_step * (num_steps - self._filling_steps(buffer_slots, num_steps))

    def _filling_steps(self, buffer_slots: int, most: float) -> float:
        least = 0.0
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

    def total_misses(self, buffer_slots: int, num_steps: int) -> float:
        """As MissLaw; the steps that fill the buffer count as any other."""
        return self.measured * num_steps

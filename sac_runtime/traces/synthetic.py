"""Synthetic traces: top-k choices with a given overlap of consecutive steps, for lengths that no CPU model reaches.

Knows probabilities and token positions; knows no model, no buffer and no time. Figures that rest on one are `modelled`.

The model, for each layer on its own:
- The newest `recent_tokens` tokens are always chosen.
- The other top_k - recent_tokens entries come from a working set of M places. Place r is chosen at a step with
  probability p(r) = p0 exp(-(r / r0)^2), so that a few thousand tokens of the context take nearly every choice.
- Before each step a share `turnover` of the places gives its token up for one drawn from the rest of the context.

What matters about it has closed forms (`LayerModel`): the overlap of consecutive steps, sum(p^2) / k; the misses of an
LRU buffer, by Che's approximation; the tokens touched in n steps, by renewal. The bell shape is our choice (assumed):
of the shapes tried it alone meets the published overlaps, misses by buffer size and footprints together. Choosing a
fixed number of places with given probabilities is Pareto sampling (B. Rosen, 1997).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sac_runtime.errors import GeometryError
from sac_runtime.rows.layout import DEEPSEEK_LAYERS, DEEPSEEK_TOP_K
from sac_runtime.traces.format import TokenSet, TraceHeader, TraceStep

FIG4_TOUCHED_TOKENS = {
    16384: 16384 * 0.86 / 1.2,
    32768: 32768 * 1.19 / 2.3,
    65536: 65536 * 1.49 / 4.6,
    131072: 131072 * 1.97 / 9.2,
}
"""Context tokens -> tokens touched at least once while 1K tokens are produced at top_k 2048, mean over the layers.
Source: SAC, Fig 4 (arXiv 2606.19746, CC BY 4.0): total stated in the text, active part read off the figure."""
FIG4_TOP_K = DEEPSEEK_TOP_K
FIG4_STEPS = 1000

PUBLISHED_MIDDLE_OVERLAP = (0.35, 0.50)  # HiSparse, consecutive steps in middle layers
FIRST_LAYERS_OVERLAP = (0.25, 0.30)  # "less in the first two"; the figures are assumed

_LEAST_PROBABILITY = 1e-3  # places chosen less often than once in 1K steps are left out
_LEAST_REACH = 1.5  # the bell is cut at 1.5 r0 or later, or the overlap would not be the asked one
_MOST_PEAK = 0.96  # p0; with the bell cut that early, p(0) is then still below 1
_MOST_PLACES_SHARE = 7 / 8  # of the older tokens, so that there is a rest to draw from
_MOST_TURNOVER = 1 / 8
LEAST_PUBLISHED_CONTEXT = 4


@dataclass(frozen=True)
class LayerModel:
    """The choice of one layer.

    overlap: share of the top-k kept from one step to the next; turnover: share of the places that change their token
    before each step. Raises GeometryError where no such layer can be."""

    context_tokens: int
    top_k: int
    overlap: float
    turnover: float
    recent_tokens: int

    def __post_init__(self) -> None:
        if not 0 < self.recent_tokens < self.top_k < self.context_tokens:
            raise GeometryError(
                f"synthetic layer: recent_tokens={self.recent_tokens}, top_k={self.top_k}, "
                f"context_tokens={self.context_tokens} must ascend strictly from 1"
            )
        if not 0 <= self.turnover < _MOST_TURNOVER:
            raise GeometryError(f"synthetic layer: turnover={self.turnover} must lie in [0, {_MOST_TURNOVER})")
        least, most = overlap_range(self.context_tokens, self.top_k, self.recent_tokens, self.turnover)
        if not least <= self.overlap <= most:
            raise GeometryError(
                f"synthetic layer: overlap={self.overlap} must lie in [{least:.3f}, {most:.3f}] for "
                f"top_k={self.top_k} of context_tokens={self.context_tokens}; a longer context lowers the least"
            )

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """(M,) probability of each place to be chosen at a step, falling; they sum to top_k - recent_tokens."""
        peak = math.sqrt(2) * (self.overlap * self.top_k - self.recent_tokens + 1) / self._chosen / (1 - self.turnover)
        reach = 2 * self._chosen / (peak * math.sqrt(math.pi))
        last = math.ceil(reach * math.sqrt(math.log(peak / _LEAST_PROBABILITY)))
        num_places = min(last, _most_places(self.context_tokens, self.recent_tokens))
        bell = np.exp(-(((np.arange(num_places) + 0.5) / reach) ** 2))
        return np.asarray(bell * (self._chosen / bell.sum()))

    def expected_overlap(self) -> float:
        """Share of the top-k that consecutive steps have in common."""
        from_places = (1 - self.turnover) * float(self.probabilities @ self.probabilities)
        return (self.recent_tokens - 1 + from_places) / self.top_k

    def expected_misses(self, buffer_slots: int) -> float:
        """Misses per step of an LRU buffer with `buffer_slots` slots beside the newest token's own one.

        An entry stays for T steps after its last use, with T such that the entries used within T steps fill the buffer
        (Che, Tung and Wang, 2002). Each step's former newest token counts as one miss. HotBuffer's rule, which keeps
        a step's hits longer than its misses, does up to 6% better near 2 top_k."""
        shorter, longer = 1.0, float(buffer_slots)
        while longer - shorter > 1e-6 * longer:
            middle = (shorter + longer) / 2
            fits = sum(self._touched_places(middle)) + self.recent_tokens + middle - 2 < buffer_slots
            shorter, longer = (middle, longer) if fits else (shorter, middle)
        p, survival = self.probabilities, (1 - self.turnover) * (1 - self.probabilities)
        hits = p * p * (1 - self.turnover) * (1 - survival**longer) / (1 - survival)
        return float((p - hits).sum()) + 1

    def expected_touched(self, num_steps: float) -> float:
        """Tokens chosen at least once in `num_steps` steps, the recent and the new ones included."""
        from_start, from_arrivals = self._touched_places(num_steps)
        # Arrivals are drawn from a bounded urn: some were touched before and come back.
        outside = self.context_tokens - self.recent_tokens - len(self.probabilities)
        return from_start - outside * math.expm1(-from_arrivals / outside) + self.recent_tokens + num_steps - 1

    @property
    def _chosen(self) -> int:
        return self.top_k - self.recent_tokens

    def _touched_places(self, num_steps: float) -> tuple[float, float]:
        """Tokens touched in `num_steps` steps: of those in a place at the start, and of those that arrived since."""
        p, survival = self.probabilities, (1 - self.turnover) * (1 - self.probabilities)
        ever = p / (1 - survival)
        within = 1 - survival**num_steps
        later = num_steps - within / (1 - survival)
        return float((ever * within).sum()), float((self.turnover * ever * later).sum())


@dataclass(frozen=True)
class SyntheticSpec:
    """A trace of one request. overlaps: of consecutive steps, one per layer; see LayerModel for the rest."""

    context_tokens: int
    top_k: int
    overlaps: tuple[float, ...]
    turnover: float
    recent_tokens: int
    seed: int = 0

    @classmethod
    def published(
        cls, context_tokens: int, top_k: int = FIG4_TOP_K, num_layers: int = DEEPSEEK_LAYERS, seed: int = 0
    ) -> "SyntheticSpec":
        """The published behaviour at a context length.

        Overlaps spread evenly over 35-50% in an order drawn from `seed`, lower in the first two layers, and at least
        what the context allows; the turnover is the one that touches as many tokens in 1K steps as SAC's Fig 4
        (between its points by a power law, outside them by the nearest two; another top_k scales both axes: assumed).
        Raises GeometryError for a context below 4 top_k, where such overlaps cannot be."""
        if context_tokens < LEAST_PUBLISHED_CONTEXT * top_k:
            raise GeometryError(
                f"published trace: context_tokens={context_tokens} must be at least {LEAST_PUBLISHED_CONTEXT} x "
                f"top_k={top_k}; give a SyntheticSpec of your own, or a smaller top_k"
            )
        recent_tokens = max(1, top_k // 32)
        least, _ = overlap_range(context_tokens, top_k, recent_tokens)
        middle = np.linspace(*PUBLISHED_MIDDLE_OVERLAP, max(1, num_layers - len(FIRST_LAYERS_OVERLAP)))
        order = np.argsort(np.random.default_rng(seed).random(len(middle)))
        wanted = (*FIRST_LAYERS_OVERLAP, *middle[order].tolist())[:num_layers]
        overlaps = tuple(max(overlap, math.ceil(least * 1e3) / 1e3) for overlap in wanted)
        turnover = _calibrated_turnover(context_tokens, top_k, float(np.mean(overlaps)), recent_tokens)
        return cls(context_tokens, top_k, overlaps, turnover, recent_tokens, seed)

    def layer(self, layer: int) -> LayerModel:
        return LayerModel(self.context_tokens, self.top_k, self.overlaps[layer], self.turnover, self.recent_tokens)

    def header(self) -> TraceHeader:
        return TraceHeader(len(self.overlaps), self.top_k, (self.context_tokens,), f"synthetic: {self}")


def generate(spec: SyntheticSpec, num_steps: int) -> Iterator[TraceStep]:
    """The steps of a synthetic trace, one at a time; the same spec gives the same steps.

    Memory is about 0.4 MB per layer at 128K, whatever the number of steps."""
    layers = [_Layer(spec, layer, num_steps) for layer in range(len(spec.overlaps))]
    for index in range(num_steps):
        length = spec.context_tokens + index + 1
        yield TraceStep(index, (tuple(layer.choose(length) for layer in layers),))


def published_touched_tokens(context_tokens: int, top_k: int = FIG4_TOP_K) -> float:
    """Tokens touched in FIG4_STEPS steps by SAC's Fig 4, a power law between its points."""
    scale = top_k / FIG4_TOP_K
    contexts = np.log(list(FIG4_TOUCHED_TOKENS))
    touched = np.log(list(FIG4_TOUCHED_TOKENS.values()))
    at = math.log(context_tokens / scale)
    left = int(np.clip(np.searchsorted(contexts, at) - 1, 0, len(contexts) - 2))
    slope = (touched[left + 1] - touched[left]) / (contexts[left + 1] - contexts[left])
    return scale * math.exp(touched[left] + slope * (at - contexts[left]))


def overlap_range(context_tokens: int, top_k: int, recent_tokens: int, turnover: float = 0.0) -> tuple[float, float]:
    """The least and the most overlap that a layer of this geometry can have; the least may exceed the most."""
    chosen = top_k - recent_tokens
    least_peak = 2 * _LEAST_REACH * chosen / (math.sqrt(math.pi) * _most_places(context_tokens, recent_tokens))

    def overlap_at(peak: float) -> float:
        return (peak / math.sqrt(2) * chosen * (1 - turnover) + recent_tokens - 1) / top_k

    return overlap_at(least_peak), overlap_at(_MOST_PEAK)


class _Layer:
    """The running state of one layer: which token sits in which place."""

    def __init__(self, spec: SyntheticSpec, layer: int, num_steps: int) -> None:
        model = spec.layer(layer)
        # Doubles alone are drawn: numpy keeps their stream from version to version, unlike that of its integers.
        self._rng = np.random.default_rng([spec.seed, layer])
        self._recent_tokens = spec.recent_tokens
        self._num_chosen = spec.top_k - spec.recent_tokens
        self._odds_against = (1 - model.probabilities) / model.probabilities
        self._turnover = spec.turnover
        self._held = np.zeros(spec.context_tokens + num_steps, dtype=np.bool_)
        drawn = self._draw(len(model.probabilities), spec.context_tokens - spec.recent_tokens)
        self._places = drawn[np.argsort(self._rng.random(len(drawn)))]
        self._due_arrivals = 0.0

    def choose(self, length: int) -> TokenSet:
        """The positions that this layer chooses of `length` tokens, ascending."""
        newest_old = length - self._recent_tokens
        self._turn_over(newest_old)
        draw = self._rng.random(len(self._places))
        ranks = draw / (1 - draw) * self._odds_against
        chosen = self._places[np.argpartition(ranks, self._num_chosen - 1)[: self._num_chosen]]
        return np.concatenate([np.sort(chosen), np.arange(newest_old, length)])

    def _turn_over(self, num_old: int) -> None:
        self._due_arrivals += self._turnover * len(self._places)
        places = np.unique(self._integers(int(self._due_arrivals), len(self._places)))
        self._due_arrivals -= len(places)
        arrivals = self._draw(len(places), num_old)
        self._held[self._places[places]] = False
        self._places[places] = arrivals

    def _draw(self, count: int, num_old: int) -> TokenSet:
        """`count` tokens below `num_old` that no place holds; marks them as held."""
        drawn = [np.empty(0, dtype=np.int64)]
        while missing := count - sum(map(len, drawn)):
            candidates = np.unique(self._integers(missing, num_old))
            drawn.append(candidates[~self._held[candidates]])
            self._held[drawn[-1]] = True
        return np.concatenate(drawn)

    def _integers(self, count: int, below: int) -> NDArray[np.int64]:
        return (self._rng.random(count) * below).astype(np.int64)


def _most_places(context_tokens: int, recent_tokens: int) -> int:
    return int((context_tokens - recent_tokens) * _MOST_PLACES_SHARE)


def _calibrated_turnover(context_tokens: int, top_k: int, overlap: float, recent_tokens: int) -> float:
    """The turnover at which a layer of the mean overlap touches what Fig 4 says; 0 where it needs none for that."""
    wanted = published_touched_tokens(context_tokens, top_k)
    lower, upper = 0.0, 0.05
    for _ in range(20):
        middle = (lower + upper) / 2
        touched = LayerModel(context_tokens, top_k, overlap, middle, recent_tokens).expected_touched(FIG4_STEPS)
        lower, upper = (middle, upper) if touched < wanted else (lower, middle)
    return lower

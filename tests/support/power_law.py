"""Choices that follow the power law of footprints, and what the runtime's own buffer misses of them: the oracles of
emulation.timing.misses. Knows numpy and HotBuffer."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from sac_runtime.fetch.hot_buffer import HotBuffer
from sac_runtime.rows.layout import FloatArray, IntArray


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


def fit_exponent(steps: Iterable[IntArray]) -> float:
    """The exponent of Heaps' law that best fits a recorded trace of one layer, by least squares on log touched."""
    seen: set[int] = set()
    touched = [len(seen := seen | set(step.tolist())) for step in steps]
    times: FloatArray = np.log(np.arange(1, len(touched) + 1))
    growth = np.log(np.asarray(touched) / touched[0])
    return float(times @ growth / (times @ times))

"""The search for a model's free parameters. Knows numbers; knows neither model nor readings.

A pattern search: it needs no derivatives, takes rounded parameters (which have none), and from one start always ends at one
result. scipy's Nelder-Mead would do as well, at the price of a dependency for forty lines."""

from collections.abc import Callable, Iterator
from itertools import combinations

Values = tuple[float, ...]


def pattern_search(
    badness: Callable[[Values], float],
    start: Values,
    *,
    step: float,
    least_step: float,
    gain: float,
    pairs: bool = False,
) -> Values:
    """The values at which `badness` is least, as far as moves of single ones (and of `pairs`) find it.

    Each value is tried a share `step` up and down; the first move that gains at least `gain` is taken. Where none does, the
    step is halved, down to `least_step`."""
    best, least = start, badness(start)
    while step > least_step:
        candidates = (_moved(best, move) for move in _moves(len(start), step, pairs))
        better = next((tried for tried in ((badness(x), x) for x in candidates) if tried[0] < least - gain), None)
        if better is None:
            step /= 2
        else:
            least, best = better
    return best


def _moves(count: int, step: float, pairs: bool) -> Iterator[dict[int, float]]:
    """Factors to apply, by the number of the value."""
    single = [{number: 1 + sign * step} for number in range(count) for sign in (1, -1)]
    yield from single
    if pairs:
        yield from ({**one, **other} for one, other in combinations(single, 2) if one.keys() != other.keys())


def _moved(values: Values, move: dict[int, float]) -> Values:
    return tuple(value * move.get(number, 1.0) for number, value in enumerate(values))

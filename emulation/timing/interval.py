"""Intervals of figures: what is known of a model's inputs and of its errors, as low, value, high. Knows numbers; runs no model.

Two sources widen a figure. Publications that disagree: the figure is computed with each, and the least and the most count. The fit:
the model's errors at the readings it was fitted to; a true figure is the model's over 1 + error."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

READING_ERROR = 0.03  # of a figure that was read off a plot, at most 2 to 3%


class Order(StrEnum):
    """How one interval lies to another."""

    AHEAD = "ahead"
    BEHIND = "behind"
    UNDECIDED = "not decided by what is known"


@dataclass(frozen=True)
class Interval:
    """A figure and the range that it may have."""

    low: float
    value: float
    high: float

    def order(self, other: "Interval") -> Order:
        """Whether this one is above the other: decided only where the two do not overlap."""
        if self.low > other.high:
            return Order.AHEAD
        return Order.BEHIND if self.high < other.low else Order.UNDECIDED


@dataclass(frozen=True)
class Residual:
    """How far a model is from the readings of one kind of figure: its least and its most error, (model - reading) / reading, and
    at how many readings. They say nothing of runs outside the readings' range."""

    least: float
    most: float
    points: int

    @classmethod
    def of(cls, errors: Iterable[float]) -> Self:
        """The residual of these errors; at least those of reading a plot."""
        known = list(errors)
        return cls(min([-READING_ERROR, *known]), max([READING_ERROR, *known]), len(known))

    def inverse(self) -> "Residual":
        """That of one over the figure."""
        return Residual(1 / (1 + self.most) - 1, 1 / (1 + self.least) - 1, self.points)


NO_RESIDUAL = Residual(0.0, 0.0, 0)


def interval_of(value: float, others: Iterable[float] = (), residual: Residual = NO_RESIDUAL) -> Interval:
    """The interval of a figure of `value`, which is one of `others` with other inputs."""
    values = [value, *others]
    bounds = (min(values) / (1 + residual.most), max(values) / (1 + residual.least))
    return Interval(min(bounds), value, max(bounds))

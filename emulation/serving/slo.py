"""Goodput: how many requests per second meet their service-level objectives. Knows latencies and bounds; no requests, no engine."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from emulation.errors import InputError
from emulation.timing.interval import Interval, Residual

_NS_PER_MS = 1e6


@dataclass(frozen=True)
class Slo:
    """Bounds that a request must keep, all of them: ms to its first token, and mean ms per later token; None: no bound.
    Raises InputError for a bound that is no number above 0."""

    ttft_ms: float | None = None
    tbt_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("ttft_ms", "tbt_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise InputError(f"slo: {name}={value} must be a number of ms above 0")

    def __bool__(self) -> bool:
        """Whether there is a bound."""
        return self.ttft_ms is not None or self.tbt_ms is not None

    def met(self, ttft_ns: float, tbt_ns: float) -> bool:
        """Whether a request keeps the bounds; one without later tokens has a tbt of 0."""
        return (self.ttft_ms is None or ttft_ns <= self.ttft_ms * _NS_PER_MS) and (
            self.tbt_ms is None or tbt_ns <= self.tbt_ms * _NS_PER_MS
        )

    def scaled(self, ttft: float, tbt: float) -> "Slo":
        """The bounds times these factors."""
        return Slo(
            None if self.ttft_ms is None else self.ttft_ms * ttft, None if self.tbt_ms is None else self.tbt_ms * tbt
        )


NO_SLO = Slo()


class GoodCounter:
    """Counts the requests that meet an SLO, and those that would if latencies were as far off as the fit's errors allow."""

    def __init__(self, slo: Slo, ttft: Residual, tbt: Residual) -> None:
        self.slo = slo
        self._bounds = (slo.scaled(1 + ttft.least, 1 + tbt.least), slo, slo.scaled(1 + ttft.most, 1 + tbt.most))
        self._met = [0, 0, 0]

    def add(self, ttft_ns: float, tbt_ns: float) -> None:
        """Count a request that has finished."""
        for place, bound in enumerate(self._bounds):
            self._met[place] += bound.met(ttft_ns, tbt_ns)

    def rate(self, duration_s: float) -> Interval:
        """Requests per second that meet the bounds."""
        return Interval(*(met / duration_s if duration_s else 0.0 for met in self._met))


def widened(goodput: Interval, values: Iterable[float | None], throughput: Interval) -> Interval:
    """The interval with these values in it, and with what is known of the throughput that it is a part of."""
    known = [value for value in values if value is not None]
    slower, faster = (
        bound / throughput.value if throughput.value else 1.0 for bound in (throughput.low, throughput.high)
    )
    return Interval(min([goodput.low * slower, *known]), goodput.value, max([goodput.high * faster, *known]))

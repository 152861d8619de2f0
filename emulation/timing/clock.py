"""Clocks in integer ns. A VirtualClock moves only when told; a WallClock is the machine's and knows its stalls' error.
Knows time, no links and no stores."""

import time
from array import array
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from sac_runtime.label import Label


class Clock(Protocol):
    """What a store needs: the time, and a wait until a time."""

    label: Label

    def now_ns(self) -> int: ...

    def wait_until(self, deadline_ns: int) -> None:
        """Be at `deadline_ns`, or where the clock is if that lies behind."""
        ...

    def stall(self, start_ns: int, requested_ns: int) -> int:
        """Be at `requested_ns` after `start_ns`; returns the ns from `start_ns` that it became."""
        ...

    def count_late(self, num_late: int) -> None:
        """Book stalls that somebody else made and that were over before they began."""
        ...


class VirtualClock:
    """Integer ns from 0; deterministic."""

    label = Label.MODELLED

    def __init__(self) -> None:
        self._now_ns = 0

    def now_ns(self) -> int:
        return self._now_ns

    def wait_until(self, deadline_ns: int) -> None:
        """Move to `deadline_ns`; a deadline in the past leaves the clock where it is."""
        if deadline_ns > self._now_ns:
            self._now_ns = deadline_ns

    def stall(self, start_ns: int, requested_ns: int) -> int:
        """As Clock.stall; always `requested_ns`, or more if the clock was past that."""
        self.wait_until(start_ns + requested_ns)
        return self._now_ns - start_ns

    def count_late(self, num_late: int) -> None:
        """As Clock.count_late; a virtual clock is never late."""


@dataclass(frozen=True)
class InjectorSummary:
    """How well stalls were met: relative errors of those that were honoured; num_late were not, by late_ns in all."""

    num_honoured: int
    median_error: float
    p99_error: float
    num_late: int
    late_ns: int


@dataclass
class InjectorError:
    """How well stalls met their requests; apart from the error of the model that asked."""

    relative: "array[float]" = field(default_factory=lambda: array("d"))  # of each honoured stall, signed
    num_late: int = 0  # stalls that were over before they began: the real access was slower
    late_ns: int = 0  # by how much, in all

    def add(self, requested_ns: int, achieved_ns: int, late: bool) -> None:
        if late:
            self.num_late += 1
            self.late_ns += achieved_ns - requested_ns
        else:
            self.relative.append((achieved_ns - requested_ns) / max(1, requested_ns))

    def absorb(self, other: "InjectorError") -> None:
        """Take in what another clock booked."""
        self.relative.extend(other.relative)
        self.num_late += other.num_late
        self.late_ns += other.late_ns

    def summary(self) -> InjectorSummary:
        """Error |achieved - requested| / requested: median and p99 of the honoured stalls; then the late ones."""
        error = np.abs(np.asarray(self.relative))
        median, p99 = np.percentile(error, [50, 99]) if error.size else (0.0, 0.0)
        return InjectorSummary(int(error.size), float(median), float(p99), self.num_late, self.late_ns)


class WallClock:
    """The machine's monotonic clock; it stalls by spinning, since a sleep wakes tens of microseconds late.

    On start it measures how far a spin runs past its deadline in the median, and ends each spin that much earlier."""

    label = Label.INJECTED

    def __init__(self) -> None:
        self.error = InjectorError()
        self.overshoot_ns = 0
        self.overshoot_ns = _median_overshoot_ns(self)

    def now_ns(self) -> int:
        return time.perf_counter_ns()

    def wait_until(self, deadline_ns: int) -> None:
        clock = time.perf_counter_ns
        stop_ns = deadline_ns - self.overshoot_ns
        while clock() < stop_ns:
            pass

    def stall(self, start_ns: int, requested_ns: int) -> int:
        """Spin until `requested_ns` after `start_ns`; returns the ns that really passed and books the error."""
        deadline_ns = start_ns + requested_ns
        late = time.perf_counter_ns() > deadline_ns
        self.wait_until(deadline_ns)
        achieved_ns = time.perf_counter_ns() - start_ns
        self.error.add(requested_ns, achieved_ns, late)
        return achieved_ns

    def count_late(self, num_late: int) -> None:
        """As Clock.count_late."""
        self.error.num_late += num_late


def _median_overshoot_ns(clock: WallClock, num_samples: int = 201, spin_ns: int = 5_000) -> int:
    overshoots = []
    for _ in range(num_samples):
        deadline_ns = clock.now_ns() + spin_ns
        clock.wait_until(deadline_ns)
        overshoots.append(clock.now_ns() - deadline_ns)
    return max(0, sorted(overshoots)[num_samples // 2])

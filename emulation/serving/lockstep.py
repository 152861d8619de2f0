"""Work that goes on at one common rate: many jobs, one virtual time. Knows work, rates and what they move, no meaning of it.

All jobs of a `Lockstep` advance equally (decode steps in lockstep, prefixes that share an engine), so a change of rate
touches one number instead of every job: a job ends when the common progress reaches its mark."""

from collections.abc import Iterator
from heapq import heappop, heappush
from math import inf
from typing import Generic, TypeVar

Job = TypeVar("Job")


class Lockstep(Generic[Job]):
    """Jobs and their common progress. `rate` is work per ns; the caller sets it, and adds to `done` before it changes.
    heap: (mark of `done` at which it ends, order of coming, job)."""

    __slots__ = ("_sequence", "done", "heap", "rate")

    def __init__(self) -> None:
        self.rate = 0.0
        self.done = 0.0
        self.heap: list[tuple[float, int, Job]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self.heap)

    def jobs(self) -> Iterator[Job]:
        """The jobs, in no order."""
        return (job for _, _, job in self.heap)

    def add(self, work: float, job: Job) -> None:
        """Add a job of `work` from now on."""
        self._sequence += 1
        heappush(self.heap, (self.done + work, self._sequence, job))

    def next_end_in(self) -> float:
        """ns until the first job ends at the present rate; inf for none."""
        if not self.heap or not self.rate:
            return inf
        return max(0.0, (self.heap[0][0] - self.done) / self.rate)

    def advance_to_first(self) -> None:
        """Put the progress exactly on the first job's mark, which a sum of roundings would miss."""
        self.done = self.heap[0][0]

    def pop_ended(self) -> list[Job]:
        """Take the jobs that have ended, in order."""
        ended = []
        while self.heap and self.heap[0][0] <= self.done:
            ended.append(heappop(self.heap)[2])
        if not self.heap:
            self.done = 0.0  # keeps the numbers small, and their rounding with them
        return ended

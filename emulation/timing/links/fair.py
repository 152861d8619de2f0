"""One link shared by readers, served fairly: n requests at once each get 1/n of it. Knows work in ns, no profiles.

The law is egalitarian processor sharing, the limit of round-robin over small packets. A request's end depends on who
comes after it, so ends are taken one after the other. Arithmetic is IEEE double; ends are rounded up to whole ns."""

from heapq import heappop, heappush
from math import ceil
from typing import Any

NEVER_NS = 1 << 62
_ROUNDING_NS = 1 / 1024  # a sum of shares may land this far past a whole ns without counting as the next


class FairLink:
    """A link that serves all its requests at equal shares. Work is in ns of the whole link.

    Calls come in order of time, and before `submit(at, ...)` the ends up to `at` have been taken by `end_until(at)`."""

    __slots__ = (
        "_busy_ns",
        "_finish_heap",
        "_now_ns",
        "_sequence",
        "_shared_ns",
        "name",
        "next_end_ns",
        "scheduled_ns",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.next_end_ns = float(NEVER_NS)  # when the next request ends if none comes before; not rounded
        self.scheduled_ns = NEVER_NS  # for whoever looks after many links: when it will look at this one
        self._now_ns = 0.0
        self._busy_ns = 0.0
        self._shared_ns = 0.0  # work that a request present since the start would have got
        self._finish_heap: list[tuple[float, int, Any]] = []  # (shared work at its end, order of coming, token)
        self._sequence = 0

    def submit(self, at_ns: float, work_ns: float, token: Any = None) -> float:
        """Add a request of `work_ns` at `at_ns`; `token` comes back when it ends. Returns the busy time so far."""
        heap = self._finish_heap
        if heap:
            elapsed_ns = at_ns - self._now_ns
            self._shared_ns += elapsed_ns / len(heap)
            self._busy_ns += elapsed_ns
        self._now_ns = at_ns
        self._sequence += 1
        heappush(heap, (self._shared_ns + work_ns, self._sequence, token))
        self.next_end_ns = at_ns + (heap[0][0] - self._shared_ns) * len(heap) - _ROUNDING_NS
        return self._busy_ns

    def end_until(self, at_ns: int, ended: list[tuple[int, Any]]) -> None:
        """Take the requests that end up to `at_ns`: append (end in ns, token) of each to `ended`, in order."""
        heap = self._finish_heap
        while self.next_end_ns <= at_ns:
            finish, _, token = heappop(heap)
            elapsed_ns = (finish - self._shared_ns) * (len(heap) + 1)
            self._now_ns += elapsed_ns
            self._busy_ns += elapsed_ns
            self._shared_ns = finish
            ended.append((ceil(self.next_end_ns), token))
            if heap:
                self.next_end_ns = self._now_ns + (heap[0][0] - finish) * len(heap) - _ROUNDING_NS
            else:
                self.next_end_ns = NEVER_NS

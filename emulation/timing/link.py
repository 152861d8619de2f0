"""One link shared by readers, served fairly: n requests at once each get 1/n of it. Knows work in ns, no profiles.

The law is egalitarian processor sharing, the limit of round-robin over small packets. A request's end depends on who
comes after it, so ends are asked for one event at a time. Arithmetic is IEEE double; ends are rounded up to whole ns."""

import math
from heapq import heappop, heappush
from typing import Any

_ROUNDING_NS = 1 / 1024  # a sum of shares may land this far past a whole ns without counting as the next


class FairLink:
    """A link that serves all its requests at equal shares. Work is in ns of the whole link.

    Events must come in order of time: before `submit(at, ...)` all ends up to `at` must have been taken by `end_next`."""

    __slots__ = ("_busy_ns", "_finish_heap", "_now_ns", "_sequence", "_shared_ns", "name", "served_ns")

    def __init__(self, name: str) -> None:
        self.name = name
        self.served_ns = 0.0  # work submitted so far
        self._now_ns = 0.0
        self._busy_ns = 0.0
        self._shared_ns = 0.0  # work that each request present since the start would have got
        self._finish_heap: list[tuple[float, int, float, Any]] = []
        self._sequence = 0

    def __len__(self) -> int:
        """Requests in service."""
        return len(self._finish_heap)

    def submit(self, at_ns: float, work_ns: float, token: Any = None) -> None:
        """Add a request of `work_ns` at `at_ns`; `token` comes back when it ends."""
        heap = self._finish_heap
        if heap:
            elapsed_ns = at_ns - self._now_ns
            self._shared_ns += elapsed_ns / len(heap)
            self._busy_ns += elapsed_ns
        self._now_ns = at_ns
        self._sequence += 1
        self.served_ns += work_ns
        heappush(heap, (self._shared_ns + work_ns, self._sequence, work_ns, token))

    def next_end_ns(self) -> int | None:
        """When the next request ends if none comes before; None when idle."""
        heap = self._finish_heap
        if not heap:
            return None
        return math.ceil(self._now_ns + (heap[0][0] - self._shared_ns) * len(heap) - _ROUNDING_NS)

    def end_next(self) -> tuple[int, Any]:
        """Take the request that ends next: (its end in ns, its token)."""
        heap = self._finish_heap
        finish, _, _, token = heap[0]
        elapsed_ns = (finish - self._shared_ns) * len(heap)
        heappop(heap)
        self._now_ns += elapsed_ns
        self._busy_ns += elapsed_ns
        self._shared_ns = finish
        return math.ceil(self._now_ns - _ROUNDING_NS), token

    def busy_ns(self, at_ns: float) -> float:
        """Time with at least one request in service, up to `at_ns` (not before the last event)."""
        return self._busy_ns + (at_ns - self._now_ns if self._finish_heap else 0.0)

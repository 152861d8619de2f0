"""What happens next: the clock of a simulation and its list of calls. Knows times, not what is called.

A call at a time costs one push and one pop of a heap, which is all that the engine would use of a simulation library."""

from heapq import heappop, heappush
from typing import Any, Protocol


class Called(Protocol):
    """Whoever is called: `on_time` with the two arguments that the call was given."""

    def on_time(self, number: int, subject: Any) -> None: ...


class Agenda:
    """Calls in order of time, of equal times in the order in which they were asked for. `now_ns`: of the call under way."""

    __slots__ = ("_calls", "_sequence", "now_ns")

    def __init__(self) -> None:
        self.now_ns = 0.0
        self._calls: list[tuple[float, int, Called, int, Any]] = []
        self._sequence = 0

    def call(self, at_ns: float, called: Called, number: int = 0, subject: Any = None) -> None:
        """Call `called.on_time(number, subject)` at `at_ns`."""
        self._sequence += 1
        heappush(self._calls, (at_ns, self._sequence, called, number, subject))

    def run(self) -> None:
        """Make all calls, those that are added meanwhile too."""
        calls = self._calls
        while calls:
            self.now_ns, _, called, number, subject = heappop(calls)
            called.on_time(number, subject)

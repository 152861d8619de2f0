"""Many readers over shared links on virtual time. Knows paths and fair links; closed loops and open loops are its callers'.

A transfer is served by all links of its path at once, each at the share it can give, and ends when the last of them has
served it, plus set-up and latency. Latency, and with it what a reader's window lets through, grows with the load that *others* put on the path's
busiest link, along the profile's curve; a reader's own queueing is in the links already."""

from collections.abc import Iterable
from heapq import heappop, heappush
from math import exp
from typing import Any

from emulation.timing.link import FairLink
from emulation.timing.paths import Path, Transfer

NEVER_NS = 1 << 62
LOAD_MEMORY_NS = 1_000_000  # assumed: load is averaged over about a millisecond


class OthersLoad:
    """Load (0..1) that others put on a link, as one reader sees it from one of its requests to the next."""

    __slots__ = ("_at_ns", "_busy_ns", "_own_ns", "load")

    def __init__(self) -> None:
        self.load = 0.0
        self._at_ns = 0.0
        self._busy_ns = 0.0
        self._own_ns = 0.0

    def update(self, at_ns: float, busy_ns: float, own_work_ns: float) -> float:
        """The load at `at_ns`, from the link's busy time so far; `own_work_ns` is the reader's next request."""
        elapsed_ns = at_ns - self._at_ns
        if elapsed_ns > 0:
            others = min(1.0, max(0.0, busy_ns - self._busy_ns - self._own_ns) / elapsed_ns)
            self.load += (1 - exp(-elapsed_ns / LOAD_MEMORY_NS)) * (others - self.load)
            self._at_ns, self._busy_ns, self._own_ns = at_ns, busy_ns, 0.0
        self._own_ns += own_work_ns
        return self.load


class _Pending:
    """A transfer in flight; `late_ns` is what comes after its links: set-up and latency."""

    __slots__ = ("earliest_ns", "late_ns", "legs_left", "token")

    def __init__(self, earliest_ns: int, late_ns: int, legs_left: int, token: Any) -> None:
        self.earliest_ns, self.late_ns, self.legs_left, self.token = earliest_ns, late_ns, legs_left, token


class Fabric:
    """Links by name and the transfers on them. Deterministic: events of one time go in the order they were caused.

    A caller with a clock of its own submits at its time, asks `next_event_ns` and calls `step` at that time; one whose
    transfers are known beforehand calls `run`. Links come into being when a path first names them."""

    def __init__(self) -> None:
        self.links: dict[str, FairLink] = {}
        self.now_ns = 0
        self.num_link_events = 0
        self._events: list[tuple[int, int, FairLink | _Pending]] = []
        self._sequence = 0
        self._scheduled_ns: dict[FairLink, int] = {}
        self._routes: dict[int, tuple[Path, list[FairLink], list[OthersLoad]]] = {}

    def submit(self, at_ns: int, path: Path, transfer: Transfer, token: Any = None) -> None:
        """Begin a transfer at `at_ns`; `step` returns `token` when it ends. Raises ValueError if `at_ns` is in the past."""
        if at_ns < self.now_ns:
            raise ValueError(f"fabric: at_ns={at_ns} lies before now_ns={self.now_ns}; submit in order of time")
        self.now_ns = at_ns
        _, links, loads = self._routes.get(id(path)) or self._route(path)
        load = self._load(at_ns, path, transfer, links, loads) if loads else 0.0
        works = path.works_ns(transfer, load)
        pending = _Pending(at_ns + path.profile.floor_ns, path.late_ns(transfer, load), len(links), token)
        for link, work_ns in zip(links, works, strict=True):
            link.submit(at_ns, work_ns, pending)
            self._schedule(link)
        self.num_link_events += len(links)

    def next_event_ns(self) -> int | None:
        """When `step` has something to do next; None when nothing is in flight."""
        return self._events[0][0] if self._events else None

    def step(self) -> tuple[int, Any] | None:
        """Handle the next event: (end in ns, token) if it ended a transfer, else None."""
        at_ns, _, what = heappop(self._events)
        self.now_ns = at_ns
        if isinstance(what, _Pending):
            return at_ns, what.token
        self._end_on(what, at_ns)
        return None

    def run(self, requests: Iterable[tuple[int, Path, Transfer]]) -> list[int]:
        """Ends in ns of transfers (begin in ns, path, transfer) given in order of time."""
        ends: dict[int, int] = {}
        for number, (at_ns, path, transfer) in enumerate(requests):
            self._drain(at_ns, ends)
            self.submit(at_ns, path, transfer, number)
        self._drain(None, ends)
        return [ends[number] for number in range(len(ends))]

    def utilisation(self, at_ns: int) -> dict[str, float]:
        """Busy part (0..1) of the time up to `at_ns`, by link."""
        return {name: link.busy_ns(at_ns) / at_ns if at_ns else 0.0 for name, link in self.links.items()}

    def _drain(self, until_ns: int | None, ends: dict[int, int]) -> None:
        events = self._events
        while events and (until_ns is None or events[0][0] <= until_ns):
            ended = self.step()
            if ended is not None:
                ends[ended[1]] = ended[0]

    def _route(self, path: Path) -> tuple[Path, list[FairLink], list[OthersLoad]]:
        links = [self.links.setdefault(name, FairLink(name)) for name in path.links]
        rises = path.profile.loaded_latency[-1][1] > 1
        route = path, links, [OthersLoad() for _ in links[1:]] if rises else []
        self._routes[id(path)] = route  # the route holds the path, so that its id stays its own
        return route

    def _load(
        self, at_ns: int, path: Path, transfer: Transfer, links: list[FairLink], loads: list[OthersLoad]
    ) -> float:
        works = path.works_ns(transfer)[1:]
        return max(
            others.update(at_ns, link.busy_ns(at_ns), work_ns)
            for others, link, work_ns in zip(loads, links[1:], works, strict=True)
        )

    def _schedule(self, link: FairLink) -> None:
        """Have an event no later than the link's next end; one that comes too early looks again."""
        end_ns = link.next_end_ns()
        if end_ns is not None and end_ns < self._scheduled_ns.get(link, NEVER_NS):
            self._scheduled_ns[link] = end_ns
            self._push(end_ns, link)

    def _end_on(self, link: FairLink, at_ns: int) -> None:
        if self._scheduled_ns.get(link) == at_ns:
            del self._scheduled_ns[link]
        while (end_ns := link.next_end_ns()) is not None and end_ns <= at_ns:
            _, pending = link.end_next()
            self.num_link_events += 1
            pending.legs_left -= 1
            if not pending.legs_left:
                self._push(max(pending.earliest_ns, end_ns + pending.late_ns), pending)
        self._schedule(link)

    def _push(self, at_ns: int, what: FairLink | _Pending) -> None:
        self._sequence += 1
        heappush(self._events, (at_ns, self._sequence, what))

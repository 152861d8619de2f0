"""Many readers over shared links on virtual time. Knows paths and fair links; its callers know who asks when.

A transfer is served by all links of its path at once, each at the share it can give, and ends when the last of them has
served it, plus set-up and latency. Latency, and with it what a reader's window lets through, grows along the profile's
curve with the load that *others* put on the path's busiest link; a reader's own queueing is in the links already."""

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from math import ceil, exp
from typing import Any

from emulation.timing.links.fair import NEVER_NS, FairLink
from emulation.timing.path import LinkPath, Transfer

LOAD_MEMORY_NS = 1_000_000  # assumed: load is averaged over about a millisecond


class OthersLoad:
    """Load (0..1) that others put on a path's busiest link, as its reader sees it from one request to the next."""

    __slots__ = ("_at_ns", "_busy_ns", "_loads", "_own_ns")

    def __init__(self, num_links: int) -> None:
        self._at_ns = 0
        self._busy_ns: Sequence[float] = [0.0] * num_links
        self._own_ns: Sequence[float] = self._busy_ns
        self._loads = [0.0] * num_links

    def update(self, at_ns: int, busy_ns: Sequence[float], own_ns: Sequence[float]) -> float:
        """The load at `at_ns`, from each link's busy time so far; `own_ns` is the work that the reader now adds."""
        elapsed_ns = at_ns - self._at_ns
        if elapsed_ns <= 0:
            self._own_ns = [before + now for before, now in zip(self._own_ns, own_ns, strict=True)]
            return max(self._loads)
        part = (1 - exp(-elapsed_ns / LOAD_MEMORY_NS)) / elapsed_ns
        keep = 1 - part * elapsed_ns
        loads, before_ns, before_own_ns, highest = self._loads, self._busy_ns, self._own_ns, 0.0
        for i, load in enumerate(loads):
            others_ns = busy_ns[i] - before_ns[i] - before_own_ns[i]
            load *= keep
            if others_ns > 0:
                load += part * (others_ns if others_ns < elapsed_ns else elapsed_ns)
            loads[i] = load
            if load > highest:
                highest = load
        self._at_ns, self._busy_ns, self._own_ns = at_ns, busy_ns, own_ns
        return highest


class _Pending:
    """A transfer in flight; `late_ns` is what comes after its links: set-up and latency."""

    __slots__ = ("earliest_ns", "end_ns", "late_ns", "legs_left", "served_ns", "token")

    earliest_ns: int
    late_ns: int
    end_ns: int

    def __init__(self, num_legs: int, token: Any) -> None:
        self.legs_left = num_legs
        self.served_ns = 0  # last end on a link so far
        self.token = token


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
        self._stepped = True  # ends are events for `step`
        self._routes: dict[int, tuple[LinkPath, list[FairLink], OthersLoad | None]] = {}

    def submit(self, at_ns: int, path: LinkPath, transfer: Transfer, token: Any = None) -> None:
        """Begin a transfer at `at_ns`; `step` returns `token` when it ends. ValueError if `at_ns` lies in the past."""
        links, _ = self._begin(at_ns, path, transfer, token)
        for link in links:
            self._schedule(link)

    def next_event_ns(self) -> int | None:
        """When `step` has something to do next; None when nothing is in flight."""
        return self._events[0][0] if self._events else None

    def step(self) -> tuple[int, Any] | None:
        """Handle the next event: (end in ns, token) if it ended a transfer, else None."""
        at_ns, _, what = heappop(self._events)
        self.now_ns = at_ns
        if isinstance(what, _Pending):
            return at_ns, what.token
        if what.scheduled_ns == at_ns:
            what.scheduled_ns = NEVER_NS
        ended: list[tuple[int, _Pending]] = []
        what.end_until(at_ns, ended)
        self._collect(ended)
        self._schedule(what)
        return None

    def run(self, requests: Iterable[tuple[int, LinkPath, Transfer]]) -> list[int]:
        """Ends in ns of transfers (begin in ns, path, transfer), given in order of time, on an idle fabric.
        With all begins known the links need not be looked at together, which is faster than `submit` and `step`."""
        self._stepped = False
        in_flight = [self._begin(at_ns, path, transfer, None)[1] for at_ns, path, transfer in requests]
        ended: list[tuple[int, _Pending]] = []
        for link in self.links.values():
            link.end_until(NEVER_NS - 1, ended)
        self._collect(ended)
        self._stepped = True
        ends = [pending.end_ns for pending in in_flight]
        self.now_ns = max([self.now_ns, *ends])
        return ends

    def _begin(self, at_ns: int, path: LinkPath, transfer: Transfer, token: Any) -> tuple[list[FairLink], _Pending]:
        if at_ns < self.now_ns:
            raise ValueError(f"fabric: at_ns={at_ns} lies before now_ns={self.now_ns}; submit in order of time")
        self.now_ns = at_ns
        _, links, others = self._routes.get(id(path)) or self._route(path)
        ended: list[tuple[int, _Pending]] = []
        for link in links:
            if link.next_end_ns <= at_ns:
                link.end_until(at_ns, ended)
        if ended:
            self._collect(ended)
        pending = _Pending(len(links), token)
        reader, *shared = links
        shared_ns = path.works_ns(transfer)[1:]
        busy_ns = [link.submit(at_ns, work_ns, pending) for link, work_ns in zip(shared, shared_ns, strict=True)]
        load = others.update(at_ns, busy_ns, shared_ns) if others is not None else 0.0
        reader_ns, pending.late_ns = path.loaded_ns(transfer, load)
        reader.submit(at_ns, reader_ns, pending)
        pending.earliest_ns = at_ns + path.profile.floor_ns
        self.num_link_events += len(links)
        return links, pending

    def _route(self, path: LinkPath) -> tuple[LinkPath, list[FairLink], OthersLoad | None]:
        links = [self.links.setdefault(name, FairLink(name)) for name in path.links]
        rises = path.profile.loaded_latency[-1][1] > 1
        route = path, links, OthersLoad(len(links) - 1) if rises else None
        self._routes[id(path)] = route  # the route holds the path, so that its id stays its own
        return route

    def _collect(self, ended: list[tuple[int, _Pending]]) -> None:
        """Book the ends on links, and end the transfers that these were the last of."""
        self.num_link_events += len(ended)
        for end_ns, pending in ended:
            pending.legs_left -= 1
            if end_ns > pending.served_ns:
                pending.served_ns = end_ns
            if not pending.legs_left:
                pending.end_ns = max(pending.earliest_ns, pending.served_ns + pending.late_ns)
                if self._stepped:
                    self._push(pending.end_ns, pending)

    def _schedule(self, link: FairLink) -> None:
        """Look at the link when it next ends a request. One that others delay since is looked at again."""
        end_ns = ceil(link.next_end_ns)
        if end_ns < link.scheduled_ns:
            link.scheduled_ns = end_ns
            self._push(end_ns, link)

    def _push(self, at_ns: int, what: FairLink | _Pending) -> None:
        self._sequence += 1
        heappush(self._events, (at_ns, self._sequence, what))

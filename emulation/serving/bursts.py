"""What the GPUs of one server together take from the links that they share. Knows routes, bytes and rates, no requests.

GPUs in step read at the same moments, so what they read in a step is one burst, and on each link it takes bytes / (bandwidth
x what other servers leave of it). The sums are kept as requests come and go; links that the same GPUs cross in the same
shares (a port and its device, all devices of a striped pool) are one group, and the slowest of them counts."""

from collections.abc import Sequence

from emulation.serving.routes import ClusterRoutes
from emulation.timing.links.flows import LEAST_FREE_SHARE, Duplex, Links


class Direction:
    """One direction of a server's groups of links, by group. rates: bandwidth of the slowest link; free: what other servers
    left of it, others: the highest load (0..1) that they put on a group, both at the last look. Only links that several servers
    cross (`shared`) are looked at and booked."""

    __slots__ = ("_links", "_own", "_shared", "free", "others", "rates")

    def __init__(self, links: Links, slowest: Sequence[int], shared: Sequence[bool]) -> None:
        self._links = links
        self.rates = [links.bytes_per_ns[number] for number in slowest]
        self.free = list(self.rates)
        self.others = 0.0
        self._shared = [(group, slowest[group], self.rates[group]) for group, several in enumerate(shared) if several]
        self._own = [0.0] * len(slowest)  # load by this server

    def look(self) -> None:
        """See what other servers leave now."""
        load, own, free, others = self._links.load, self._own, self.free, 0.0
        for group, number, rate in self._shared:
            used = load[number] - own[group]
            if used > others:
                others = used
            left = 1 - used
            free[group] = rate * (left if left > LEAST_FREE_SHARE else LEAST_FREE_SHARE)
        self.others = others

    def has_changed(self, least: float) -> bool:
        """Whether the highest load by others differs by `least` from that of the last look."""
        load, own = self._links.load, self._own
        others = max([load[number] - own[group] for group, number, _ in self._shared], default=0.0)
        return abs(others - self.others) >= least

    def book(self, flow: Sequence[float], times: float, amounts: Sequence[float], rate: float) -> None:
        """Replace the server's flow by `flow` x times + amounts x rate, bytes per ns by group."""
        load, peak, own = self._links.load, self._links.peak_load, self._own
        for group, number, bandwidth in self._shared:
            now = (flow[group] * times + amounts[group] * rate) / bandwidth
            if now != own[group]:
                load[number] += now - own[group]
                if load[number] > peak[number]:
                    peak[number] = load[number]
                own[group] = now


class Bursts:
    """By group of links: the entries that a step misses, the requests that decode, and what loads and prefills move, bytes per
    ns at their own pace."""

    def __init__(self, routes: ClusterRoutes, server: int) -> None:
        groups = _groups(routes.crossed_links(server), len(routes.gpus(server)))
        rates = routes.links.bytes_per_ns
        self.shares = [  # by GPU: (group, share of the GPU's bytes on a link of it)
            [(number, shares[gpu]) for number, (shares, _) in enumerate(groups) if shares[gpu]]
            for gpu in routes.gpus(server)
        ]
        shared = [any(routes.is_shared(link) for link in links) for _, links in groups]
        slowest_reads = [min((link.read for link in links), key=rates.__getitem__) for _, links in groups]
        slowest_writes = [min((link.write for link in links), key=rates.__getitem__) for _, links in groups]
        self.read, self.write = (
            Direction(routes.links, slowest, shared) for slowest in (slowest_reads, slowest_writes)
        )
        self.nothing = [0.0] * len(groups)
        self.entries, self.requests = list(self.nothing), list(self.nothing)
        self.loads, self.prefills = list(self.nothing), list(self.nothing)

    def add(self, gpu: int, entries: float, requests: int) -> None:
        """A GPU's step misses `entries` more (or fewer), with so many more requests."""
        for group, share in self.shares[gpu]:
            self.entries[group] += share * entries
            self.requests[group] += share * requests

    def add_load(self, gpu: int, bytes_per_ns: float) -> None:
        """A GPU loads so much more (or less)."""
        for group, share in self.shares[gpu]:
            self.loads[group] += share * bytes_per_ns

    def add_prefill(self, gpu: int, bytes_per_ns: float) -> None:
        """A GPU's prefill writes so much more (or less)."""
        for group, share in self.shares[gpu]:
            self.prefills[group] += share * bytes_per_ns


def _groups(
    crossed: Sequence[Sequence[tuple[Duplex, float]]], num_gpus: int
) -> list[tuple[tuple[float, ...], list[Duplex]]]:
    """(share of each GPU's bytes, links that have these shares); the GPUs' own link, the first of each, is left out."""
    by_link: dict[Duplex, list[float]] = {}
    for gpu, links in enumerate(crossed):
        for link, share in links[1:]:
            by_link.setdefault(link, [0.0] * num_gpus)[gpu] += share
    groups: dict[tuple[float, ...], list[Duplex]] = {}
    for link, shares in by_link.items():
        groups.setdefault(tuple(shares), []).append(link)
    return list(groups.items())

"""What the GPUs of one server together take from the links that they share. Knows routes, bytes and rates, no requests.

GPUs in step read at the same moments, so what they read in a step is one burst, and on each link it takes bytes / (bandwidth
x what other servers leave of it). The sums are kept as requests come and go; links that the same GPUs cross in the same
shares (a port and its device, all devices of a striped pool) are one group, and the slowest of them counts."""

from collections.abc import Sequence

from emulation.serving.routes import ClusterRoutes
from emulation.timing.links.flows import LEAST_FREE_SHARE, Duplex, Links


class Direction:
    """One direction of a server's groups of links, by group. rates: bandwidth of the slowest link; free: what other servers
    left of it, others: the highest load (0..1) that they put on a group, both at the last look. busy: whether it has a flow."""

    __slots__ = ("_links", "_numbers", "_own", "busy", "free", "others", "rates")

    def __init__(self, links: Links, slowest: Sequence[int]) -> None:
        self._links, self._numbers = links, slowest
        self.rates = [links.bytes_per_ns[number] for number in slowest]
        self.free = self.rates
        self.others = 0.0
        self.busy = False
        self._own = [0.0] * len(slowest)

    def look(self) -> None:
        """See what other servers leave now."""
        load, others, free = self._links.load, 0.0, []
        for number, rate, own in zip(self._numbers, self.rates, self._own, strict=True):
            used = load[number] - own / rate
            if used > others:
                others = used
            left = 1 - used
            free.append(rate * (left if left > LEAST_FREE_SHARE else LEAST_FREE_SHARE))
        self.others, self.free = others, free

    def has_changed(self, least: float) -> bool:
        """Whether the highest load by others differs by `least` from that of the last look."""
        load = self._links.load
        others = max(
            [load[number] - own / rate for number, rate, own in zip(self._numbers, self.rates, self._own, strict=True)],
            default=0.0,
        )
        return abs(others - self.others) >= least

    def book(self, flow: Sequence[float], amounts: Sequence[float], rate: float) -> None:
        """Replace the server's flow by `flow` + amounts x rate, bytes per ns by group."""
        load, peak, own = self._links.load, self._links.peak_load, self._own
        self.busy = False
        for group, number in enumerate(self._numbers):
            now = flow[group] + amounts[group] * rate
            if now:
                self.busy = True
            if now != own[group]:
                load[number] += (now - own[group]) / self.rates[group]
                if load[number] > peak[number]:
                    peak[number] = load[number]
                own[group] = now


class Bursts:
    """By group of links: the entries that a step misses, and the requests that decode."""

    def __init__(self, routes: ClusterRoutes, server: int) -> None:
        groups = _groups(routes.crossed_links(server), len(routes.gpus(server)))
        rates = routes.links.bytes_per_ns
        self.shares = [  # by GPU: (group, share of the GPU's bytes on a link of it)
            [(number, shares[gpu]) for number, (shares, _) in enumerate(groups) if shares[gpu]]
            for gpu in routes.gpus(server)
        ]
        self.read = Direction(
            routes.links, [min((link.read for link in links), key=rates.__getitem__) for _, links in groups]
        )
        self.write = Direction(
            routes.links, [min((link.write for link in links), key=rates.__getitem__) for _, links in groups]
        )
        self.entries = [0.0] * len(groups)
        self.requests = [0.0] * len(groups)

    def add(self, gpu: int, entries: float, requests: int) -> None:
        """A GPU's step misses `entries` more (or fewer), with so many more requests."""
        for group, share in self.shares[gpu]:
            self.entries[group] += share * entries
            self.requests[group] += share * requests

    def clear(self) -> None:
        """Nothing decodes: sums of nothing are 0, where differences would leave roundings."""
        self.entries = [0.0] * len(self.entries)
        self.requests = [0.0] * len(self.requests)

    def flow(self, bytes_by_gpu: Sequence[tuple[int, float]]) -> list[float]:
        """Bytes by group of what GPUs (number, bytes) move."""
        flow = [0.0] * len(self.entries)
        for gpu, num_bytes in bytes_by_gpu:
            for group, share in self.shares[gpu]:
                flow[group] += num_bytes * share
        return flow


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

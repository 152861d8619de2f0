"""Flows that share links at fixed rates: who gets which share. Knows links and rates; knows no servers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from emulation.timing.profile import Bandwidth

Flow = Mapping[int, float]
"""Link number -> bytes, per ns or per unit of whatever moves them (a decode step, a ns of a prefill)."""

Route = Sequence[tuple[int, float]]
"""The links that a reader's bytes cross, each with the share of the bytes that crosses it."""

LEAST_FREE_SHARE = 1e-12  # of a link that others fill; keeps a burst finite until they have seen the newcomer


class Duplex(NamedTuple):
    """The numbers of a link's two directions."""

    read: int
    write: int


class Links:
    """Numbered links, a direction each, with the load (0..1) that all flows put on each now and the bytes carried so far."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.bytes_per_ns: list[float] = []
        self.load: list[float] = []
        self.peak_load: list[float] = []
        self.num_bytes: list[float] = []

    def add(self, name: str, bandwidth: Bandwidth) -> Duplex:
        """Add a link of two directions, `name`.read and `name`.write."""
        for direction, rate in (("read", bandwidth.read_bytes_per_ns), ("write", bandwidth.write_bytes_per_ns)):
            self.names.append(f"{name}.{direction}")
            self.bytes_per_ns.append(rate)
            self.load.append(0.0)
            self.peak_load.append(0.0)
            self.num_bytes.append(0.0)
        return Duplex(len(self.names) - 2, len(self.names) - 1)

    def exchange(self, old: Flow, new: Flow) -> None:
        """Replace a flow of bytes per ns by another."""
        for link, rate in old.items():
            self.load[link] -= rate / self.bytes_per_ns[link]
        for link, rate in new.items():
            self.load[link] += rate / self.bytes_per_ns[link]
            if self.load[link] > self.peak_load[link]:
                self.peak_load[link] = self.load[link]

    def carry(self, flow: Flow, amount: float) -> None:
        """Count the bytes of `amount` units of a flow."""
        for link, num_bytes in flow.items():
            self.num_bytes[link] += num_bytes * amount

    def squeeze(self, flow: Flow, own: Flow) -> tuple[float, float]:
        """What others leave of the links of `flow` to the owner of the flow `own`.
        Returns (ns that a burst of `flow` bytes takes on its slowest link, the others' highest load 0..1)."""
        slowest_ns = highest = 0.0
        for link, num_bytes in flow.items():
            rate = self.bytes_per_ns[link]
            others = self.load[link] - own.get(link, 0.0) / rate
            burst_ns = num_bytes / (rate * max(LEAST_FREE_SHARE, 1 - others))
            if burst_ns > slowest_ns:
                slowest_ns = burst_ns
            if others > highest:
                highest = others
        return slowest_ns, min(1.0, highest)


def spread(routes: Sequence[Route], bytes_by_route: Sequence[float]) -> dict[int, float]:
    """Bytes by link of what moves along each route."""
    flow: dict[int, float] = {}
    for route, num_bytes in zip(routes, bytes_by_route, strict=True):
        if num_bytes:
            for link, share in route:
                flow[link] = flow.get(link, 0.0) + num_bytes * share
    return flow

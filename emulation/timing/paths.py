"""Paths from a reader to memory as links with work. Knows profiles, no clocks and no simulation.

A fetch of `pieces` separately posted operations and `num_bytes` bytes crosses the reader, a host adapter, switch ports and
devices. Packets pass as soon as they are served (cut-through), so on an idle path it takes
    max(floor, setup + latency + max over links of the work there).
The reader keeps `outstanding_bytes` in flight, so it takes no less than num_bytes x latency / outstanding_bytes
(Little's law); the adapter serves requests and pieces one after the other while their bytes stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from emulation.timing.profile import Bandwidth, Profile


@dataclass(frozen=True)
class Transfer:
    """One fetch (or, with `write`, one store) of `pieces` operations that move `num_bytes` in all."""

    pieces: int
    num_bytes: int
    write: bool = False


@dataclass(frozen=True)
class Leg:
    """A link on a path, the part of the path's bytes that crosses it, and its bandwidth."""

    link: str
    share: float
    bandwidth: Bandwidth

    def bytes_ns(self, transfer: Transfer) -> float:
        """Time the link needs to carry its share of the bytes."""
        rate = self.bandwidth.write_bytes_per_ns if transfer.write else self.bandwidth.read_bytes_per_ns
        return transfer.num_bytes * self.share / rate


@dataclass(frozen=True)
class Path:
    """From one reader to its rows: reader and adapter whole, ports and devices by the share striped over them."""

    reader: Leg
    adapter: Leg
    stripes: tuple[Leg, ...]  # switch ports and devices
    profile: Profile

    @property
    def links(self) -> tuple[str, ...]:
        return (self.reader.link, self.adapter.link, *(leg.link for leg in self.stripes))

    def works_ns(self, transfer: Transfer, load: float = 0.0) -> list[float]:
        """Work at each of `links`, in their order, while others load the path to `load` (0..1)."""
        profile = self.profile
        window_ns = transfer.num_bytes * profile.latency_ns(transfer.write, load) / profile.outstanding_bytes
        pieces_ns = float(transfer.pieces * profile.op_ns)
        return [
            max(self.reader.bytes_ns(transfer), window_ns),
            profile.request_ns + max(self.adapter.bytes_ns(transfer), pieces_ns),
            *(leg.bytes_ns(transfer) for leg in self.stripes),
        ]

    def late_ns(self, transfer: Transfer, load: float = 0.0) -> int:
        """What a transfer takes beside its links: set-up and one latency."""
        return self.profile.setup_ns + ceil(self.profile.latency_ns(transfer.write, load))

    def idle_ns(self, transfer: Transfer) -> int:
        """Time of the transfer with nobody else on the path: the closed form."""
        return max(self.profile.floor_ns, ceil(max(self.works_ns(transfer))) + self.late_ns(transfer))


def default_path(profile: Profile, reader: str = "reader0", host: str = "host0") -> Path:
    """The path that a profile describes by itself: one adapter, rows striped over all its devices.
    Readers of one host share its adapter; all hosts share the devices."""
    return make_path(profile, reader, f"{host}.adapter", default_stripes(profile))


def default_stripes(profile: Profile) -> list[tuple[str, str]]:
    """(port, device) of each of the profile's devices."""
    return [(f"{profile.name}.port{i}", f"{profile.name}.device{i}") for i in range(profile.num_devices)]


def make_path(profile: Profile, reader: str, adapter: str, stripes: Sequence[tuple[str, str]]) -> Path:
    """Path over named links with the profile's bandwidths, bytes spread evenly over `stripes` of (port, device)."""
    share = 1 / len(stripes)
    legs = [
        Leg(name, share, bandwidth)
        for port, device in stripes
        for name, bandwidth in ((port, profile.port), (device, profile.device))
    ]
    return Path(Leg(reader, 1.0, profile.reader), Leg(adapter, 1.0, profile.adapter), tuple(legs), profile)

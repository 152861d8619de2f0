"""Paths from a reader to memory as links with work. Knows profiles and bed files, no clocks and no simulation.

A fetch of `pieces` separately posted operations and `num_bytes` bytes crosses the reader, a host adapter, switch ports
and devices. Packets pass as soon as they are served (cut-through), so on an idle path it takes
    max(floor, setup + latency + max over links of the work there).
The reader keeps `outstanding_bytes` in flight, so it takes no less than num_bytes x latency / outstanding_bytes
(Little's law); the adapter serves requests and pieces one after the other while their bytes stream."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from emulation.errors import InputError
from emulation.timing.bed_profiles import profiles_of
from emulation.timing.profile import Bandwidth, Profile, load_profile, read_by_gpu
from qemu_configs.topology import Attachment, Topology


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

    def ns_per_byte(self, write: bool) -> float:
        """Time the link needs for each byte of the whole transfer."""
        return self.share / (self.bandwidth.write_bytes_per_ns if write else self.bandwidth.read_bytes_per_ns)


@dataclass(frozen=True)
class Route:
    """Names of the links to one device; `port` is None where no switch is between."""

    adapter: str
    port: str | None
    device: str


@dataclass(frozen=True)
class LinkPath:
    """From one reader to its rows. The reader's leg carries all bytes; adapters, ports and devices their shares."""

    profile: Profile
    reader: Leg
    adapters: tuple[Leg, ...]
    stripes: tuple[Leg, ...]  # switch ports and devices

    @property
    def links(self) -> tuple[str, ...]:
        return tuple(leg.link for leg in (self.reader, *self.adapters, *self.stripes))

    def loaded_ns(self, transfer: Transfer, load: float = 0.0) -> tuple[float, int]:
        """What a transfer takes that others' load (0..1) on the path changes: (its work at the reader, which the latency and
        the reader's window bound; what comes after the links: set-up and one latency)."""
        latency_ns = self.profile.latency_ns(transfer.write, load)
        window_ns_per_byte = latency_ns / self.profile.outstanding_bytes
        reader_ns = transfer.num_bytes * max(self.reader.ns_per_byte(transfer.write), window_ns_per_byte)
        return reader_ns, self.profile.setup_ns + ceil(latency_ns)

    def works_ns(self, transfer: Transfer) -> list[float]:
        """Work at each of `links`, in their order, with nobody else on the path."""
        num_bytes, profile = transfer.num_bytes, self.profile
        works = [num_bytes * cost for cost in (self._write_ns_per_byte if transfer.write else self._read_ns_per_byte)]
        if profile.op_ns or profile.request_ns:
            pieces_ns = transfer.pieces * profile.op_ns
            for i, leg in enumerate(self.adapters, start=1):
                works[i] = profile.request_ns + max(works[i], pieces_ns * leg.share)
        return works

    @cached_property
    def _read_ns_per_byte(self) -> list[float]:
        return self._ns_per_byte(write=False)

    @cached_property
    def _write_ns_per_byte(self) -> list[float]:
        return self._ns_per_byte(write=True)

    def _ns_per_byte(self, write: bool) -> list[float]:
        legs = (*self.adapters, *self.stripes)
        return [self.loaded_ns(Transfer(1, 1, write))[0], *[leg.ns_per_byte(write) for leg in legs]]

    def idle_ns(self, transfer: Transfer) -> int:
        """Time of the transfer with nobody else on the path: the closed form."""
        _, late_ns = self.loaded_ns(transfer)
        return max(self.profile.floor_ns, ceil(max(self.works_ns(transfer))) + late_ns)

    def publish_ns(self, num_bytes: int, way: str) -> int | None:
        """Time of a write until other hosts see it, by what the CPU does for that; None where the profile says nothing
        of coherence. The published time includes the transfer; it grows with the bytes, from one write's latency on."""
        coherence = self.profile.coherence
        if coherence is None:
            return None
        return max(self.profile.write_latency_ns, ceil(coherence.publish_ns[way] * num_bytes / coherence.num_bytes))

    def fresh_read_ns(self, transfer: Transfer, way: str) -> int | None:
        """Time of a read that is sure to bring what other hosts wrote; else as `publish_ns`. It was published for bytes in a row:
        a transfer that takes longer by itself takes no less."""
        coherence = self.profile.coherence
        if coherence is None:
            return None
        fresh_ns = ceil(coherence.fresh_read_ns[way] * transfer.num_bytes / coherence.num_bytes)
        return max(self.idle_ns(transfer), fresh_ns)


def make_path(profile: Profile, reader: str, routes: Sequence[Route]) -> LinkPath:
    """Path with the profile's bandwidths, its bytes spread evenly over `routes`; routes may share an adapter."""
    share = 1 / len(routes)
    adapters = Counter(route.adapter for route in routes)
    stripes = []
    for route in routes:
        if route.port is not None:
            stripes.append(Leg(route.port, share, profile.port))
        stripes.append(Leg(route.device, share, profile.device))
    return LinkPath(
        profile,
        Leg(reader, 1.0, profile.reader),
        tuple(Leg(name, count * share, profile.adapter) for name, count in adapters.items()),
        tuple(stripes),
    )


def default_path(profile: Profile, reader: str = "reader0", host: str = "host0") -> LinkPath:
    """The path that a profile describes by itself: one adapter, rows striped over all its devices.
    Readers of one host share its adapter; all hosts share the devices."""
    names = [f"{profile.name}.device{i}" for i in range(profile.num_devices)]
    return make_path(profile, reader, [Route(f"{host}.adapter", f"{host}.{name}.port", name) for name in names])


def bed_path(topology: Topology, host: str, devices: Sequence[str], reader: str, read_by: str = "cpu") -> LinkPath:
    """Path of a reader on a bed's host to rows interleaved over `devices`, as the bed file draws it.

    Links: the host bridge is the adapter, a switch gives one port per device, devices are shared by all hosts that hold
    them. The devices' profile holds (`bed_profiles.profiles_of`); read_by: cpu, or gpu for the same devices read over PCIe.
    Raises InputError where the host lacks a device or the devices' profiles differ."""
    attachments = {attachment.device: attachment for attachment in topology.host(host).attachments()}
    for name in devices:
        if name not in attachments:
            raise InputError(f"host {host!r}: devices={name!r} is not attached; it holds {', '.join(attachments)}")
    profiles = profiles_of(topology, topology.host(host), devices)
    if len(profiles) != 1:
        names = ", ".join(sorted(profiles))
        raise InputError(f"host {host!r}: profiles of {', '.join(devices)} are {names}; one path needs one profile")
    profile = load_profile(profiles[0])
    if read_by == "gpu" and profile.read_by == "cpu":
        profile = read_by_gpu(profile)
    return make_path(profile, f"{host}.{reader}", [_route(host, attachments[name]) for name in devices])


def _route(host: str, attachment: Attachment) -> Route:
    switch, name = attachment.switch, attachment.device
    port = None if switch is None else f"{host}.{switch.name}.{name}"
    return Route(f"{host}.{attachment.bridge.name}", port, name)

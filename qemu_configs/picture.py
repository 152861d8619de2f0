"""The picture of a host: what its guest must show of CXL devices, windows, regions and NUMA nodes, as typed values.

Knows the topology; asks no guest. `cxlbed render --format picture` prints the JSON form.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from qemu_configs.topology import Access, Attachment, Bridge, Device, Host, Topology


@dataclass(frozen=True)
class MemdevPicture:
    """A device in `cxl list`. size_bytes: its ram_size, 0 for dynamic capacity alone; persistent_size_bytes: its pmem_size;
    host_bridge: as pci0000:0c; switch: the bed file's name of the switch above it, None without one."""

    name: str
    serial: int
    size_bytes: int
    persistent_size_bytes: int
    dc_size_bytes: int
    host_bridge: str
    switch: str | None


@dataclass(frozen=True)
class WindowPicture:
    """A window's root decoder. host_bridges: its targets in the order of interleaving."""

    name: str
    size_bytes: int
    ways: int
    granularity_bytes: int
    host_bridges: tuple[str, ...]


@dataclass(frozen=True)
class RegionPicture:
    """A region to be created in `window`. devices and serials: in the order of interleaving; mode: devdax, system-ram or
    pmem."""

    name: str
    window: str
    size_bytes: int
    ways: int
    granularity_bytes: int
    mode: str
    devices: tuple[str, ...]
    serials: tuple[int, ...]


@dataclass(frozen=True)
class NumaPicture:
    """A NUMA node. distance: from node 0; access: the HMAT's figures as node 0's CPUs see them."""

    node: int
    num_cpus: int
    memory_bytes: int
    distance: int
    access: Access | None


@dataclass(frozen=True)
class Picture:
    """All that one host's guest must show, regions in the order in which they are made. numa_nodes: empty where the bed file
    gives the host one node; notes: what a stock kernel will not do with it."""

    host: str
    memdevs: tuple[MemdevPicture, ...]
    windows: tuple[WindowPicture, ...]
    regions: tuple[RegionPicture, ...]
    numa_nodes: tuple[NumaPicture, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The picture as JSON values, its keys named and ordered as the fields are."""
        values: dict[str, Any] = TypeAdapter(Picture).dump_python(self, mode="json")
        return values


def from_json(text: str | bytes) -> Picture:
    """The picture whose JSON form `text` is. Raises ValueError naming each key that is missing or of another type."""
    return TypeAdapter(Picture).validate_json(text)


def picture_of(topology: Topology, host: Host) -> Picture:
    """What the guest of `host` must show: nothing of devices that are not plugged, nor of regions over them."""
    return Picture(
        host=host.name,
        memdevs=tuple(
            _memdev(topology, attachment)
            for attachment in host.attachments()
            if topology.device(attachment.device).plugged
        ),
        windows=_windows(host),
        regions=_regions(topology, host),
        numa_nodes=_numa_nodes(host),
        notes=notes(topology, host),
    )


def notes(topology: Topology, host: Host) -> tuple[str, ...]:
    """What a stock kernel will not do with this host, and what is not known of it; nothing here is an error of the bed file."""
    devices = topology.devices_of(host)
    offline = (
        f"device '{device.name}': dynamic capacity stays offline (no stock Linux up to 7.3 takes its extents)"
        for device in devices
        if device.dc_size_bytes
    )
    claims = (
        f"device '{device.name}': claims coherence by hardware (HDM-DB); a program may not rely on it before it has seen it kept"
        for device in devices
        if device.back_invalidate
    )
    interleaved = (
        f"region '{region.name}': interleaved over {len(region.devices)} devices, so QEMU emulates each access (tens of MB/s)"
        for region in host.regions
        if len(region.devices) > 1
    )
    return (*offline, *claims, *interleaved, *_unknown(devices, host))


def _unknown(devices: tuple[Device, ...], host: Host) -> Iterator[str]:
    """What no look at the file can know."""
    for device in devices:
        if device.sparse:
            yield f"device '{device.name}': sparse, so nobody looked whether what will be written to it has room here"
        if not device.plugged:
            yield f"device '{device.name}': is not there until it is plugged, nor are the regions over it"
    if host.qemu:
        yield f"qemu: {' '.join(host.qemu)}: passed as it is; whether QEMU takes it shows when the host starts"


def _memdev(topology: Topology, attachment: Attachment) -> MemdevPicture:
    device = topology.device(attachment.device)
    return MemdevPicture(
        name=device.name,
        serial=device.serial,
        size_bytes=device.size_bytes or 0,
        persistent_size_bytes=device.persistent_size_bytes or 0,
        dc_size_bytes=device.dc_size_bytes or 0,
        host_bridge=_host_bridge(attachment.bridge),
        switch=attachment.switch.name if attachment.switch else None,
    )


def _windows(host: Host) -> tuple[WindowPicture, ...]:
    bridges = {bridge.name: _host_bridge(bridge) for bridge in host.bridges}
    return tuple(
        WindowPicture(
            name=window.name,
            size_bytes=window.size_bytes,
            ways=len(window.targets),
            granularity_bytes=window.granularity_bytes,
            host_bridges=tuple(bridges[target] for target in window.targets),
        )
        for window in host.windows
    )


def _regions(topology: Topology, host: Host) -> tuple[RegionPicture, ...]:
    return tuple(
        RegionPicture(
            name=region.name,
            window=region.window,
            size_bytes=topology.region_size_bytes(region),
            ways=len(region.devices),
            granularity_bytes=region.granularity_bytes,
            mode=region.mode,
            devices=region.devices,
            serials=tuple(topology.device(name).serial for name in region.devices),
        )
        for region in host.regions_by_address()
        if all(topology.device(name).plugged for name in region.devices)
    )


def _numa_nodes(host: Host) -> tuple[NumaPicture, ...]:
    return tuple(
        NumaPicture(
            node=cell.node,
            num_cpus=cell.num_cpus,
            memory_bytes=cell.memory_bytes,
            distance=cell.distance,
            access=cell.access,
        )
        for cell in (host.numa_cells() if host.numa_nodes else ())
    )


def _host_bridge(bridge: Bridge) -> str:
    """A bridge as the kernel names it."""
    return f"pci0000:{bridge.bus:02x}"

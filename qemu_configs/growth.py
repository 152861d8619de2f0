"""Beds with larger devices: the same places and names, sizes as a job needs them. Knows topologies; no job, no file."""

from collections.abc import Mapping

from qemu_configs.topology import MIB, Host, Region, Topology, Window

STEP_BYTES = 256 * MIB  # devices and windows come in multiples of it (QEMU)


def grown(topology: Topology, at_least_bytes: Mapping[str, int]) -> Topology:
    """`topology` with each of these devices at least that large, windows wide enough for the regions over them. A device that
    grew is sparse: who asks for more says how much of it will be written. Names, places, orders and interleaving stay."""
    devices = tuple(
        device.model_copy(update={"size_bytes": _whole(at_least_bytes[device.name]), "sparse": True})
        if (device.size_bytes or 0) < at_least_bytes.get(device.name, 0)
        else device
        for device in topology.devices
    )
    larger = topology.model_copy(update={"devices": devices})
    return larger.model_copy(update={"hosts": tuple(_widened(larger, host) for host in larger.hosts)})


def _widened(topology: Topology, host: Host) -> Host:
    windows = tuple(_wide_enough(topology, host.regions, window) for window in host.windows)
    return host.model_copy(update={"windows": windows})


def _wide_enough(topology: Topology, regions: tuple[Region, ...], window: Window) -> Window:
    needed = sum(topology.region_size_bytes(region) for region in regions if region.window == window.name)
    ways = len(window.targets)
    return window.model_copy(
        update={"size_bytes": max(window.size_bytes, -(-needed // (STEP_BYTES * ways)) * STEP_BYTES * ways)}
    )


def _whole(size_bytes: int) -> int:
    return -(-size_bytes // STEP_BYTES) * STEP_BYTES

"""What a guest must show of a host: `cxl list`, regions, NUMA nodes. Knows the topology; asks no guest."""

from typing import Any

from qemu_configs.render import _numa_cells
from qemu_configs.topology import Attachment, Bridge, Host, Topology


def cxl_picture(topology: Topology, host: Host) -> dict[str, Any]:
    """What `cxl list`, `daxctl list` and sysfs must show in the guest, as JSON values:

    memdevs: [{name, serial, size_bytes, dc_size_bytes, host_bridge, switch}]: `host_bridge` as `cxl list` names it
      (pci0000:0c), `switch` the bed file's name or None; `size_bytes` is ram_size, 0 for dynamic capacity alone.
    windows: [{name, size_bytes, ways, granularity_bytes, host_bridges}]: the root decoders, targets in order.
    regions: [{name, window, size_bytes, ways, granularity_bytes, mode, devices, serials}]: devices in interleave order.
    numa_nodes: [{node, num_cpus, memory_bytes, distance, access}] or [] where the bed file has one node; `distance`
      from node 0, `access` {read_latency_ns, write_latency_ns, read_bandwidth_mib_per_s, write_bandwidth_mib_per_s}.
    notes: [str], as `notes` below."""
    return {
        "host": host.name,
        "memdevs": [_memdev_picture(topology, attachment) for attachment in host.attachments()],
        "windows": _window_pictures(host),
        "regions": _region_pictures(topology, host),
        "numa_nodes": _numa_pictures(host),
        "notes": notes(topology, host),
    }


def notes(topology: Topology, host: Host) -> list[str]:
    """What a stock kernel will not do with this host; nothing here is an error of the bed file."""
    return [
        f"device '{device.name}': dynamic capacity stays offline (no stock Linux up to 7.3 takes its extents)"
        for device in topology.devices_of(host)
        if device.dc_size_bytes
    ]


def _memdev_picture(topology: Topology, attachment: Attachment) -> dict[str, Any]:
    device = topology.device(attachment.device)
    return {
        "name": device.name,
        "serial": device.serial,
        "size_bytes": device.size_bytes or 0,
        "dc_size_bytes": device.dc_size_bytes or 0,
        "host_bridge": host_bridge(attachment.bridge),
        "switch": attachment.switch.name if attachment.switch else None,
    }


def _window_pictures(host: Host) -> list[dict[str, Any]]:
    bridges = {bridge.name: host_bridge(bridge) for bridge in host.bridges}
    return [
        {
            "name": window.name,
            "size_bytes": window.size_bytes,
            "ways": len(window.targets),
            "granularity_bytes": window.granularity_bytes,
            "host_bridges": [bridges[target] for target in window.targets],
        }
        for window in host.windows
    ]


def _region_pictures(topology: Topology, host: Host) -> list[dict[str, Any]]:
    return [
        {
            "name": region.name,
            "window": region.window,
            "size_bytes": topology.region_size_bytes(region),
            "ways": len(region.devices),
            "granularity_bytes": region.granularity_bytes,
            "mode": region.mode,
            "devices": list(region.devices),
            "serials": [topology.device(name).serial for name in region.devices],
        }
        for region in host.regions
    ]


def _numa_pictures(host: Host) -> list[dict[str, Any]]:
    return [
        {
            "node": cell.node,
            "num_cpus": host.vcpus if cell.node == 0 else 0,
            "memory_bytes": cell.memory_bytes,
            "distance": cell.distance,
            "access": cell.access.model_dump() if cell.access else None,
        }
        for cell in (_numa_cells(host) if host.numa_nodes else [])
    ]


def host_bridge(bridge: Bridge) -> str:
    return f"pci0000:{bridge.bus:02x}"

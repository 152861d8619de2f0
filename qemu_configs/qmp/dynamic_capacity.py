"""The QMP side of a dynamic-capacity device: commands that offer extents to the guest and ask for them back.

Knows QEMU's commands and their rules; sends nothing. A stock Linux up to 7.3 reads the device's regions but takes no extent:
what is offered stays pending, and QEMU refuses to take back what is pending.
"""

from dataclasses import dataclass
from typing import Any

from qemu_configs.errors import ExtentError
from qemu_configs.topology import MIB, Device, Topology

BLOCK_BYTES = 2 * MIB  # QEMU's block size of every dynamic region


@dataclass(frozen=True)
class Extent:
    """A range of one dynamic region, from the region's own start."""

    offset_bytes: int
    size_bytes: int


def add_capacity(topology: Topology, device_name: str, region: int, extents: list[Extent]) -> dict[str, Any]:
    """The QMP command that offers `extents` of a device's dynamic region to its host.

    Raises ExtentError for a device or region that the bed lacks, and for extents off QEMU's blocks, outside the region or
    one over the other."""
    _check(topology, device_name, region, extents)
    arguments = {"selection-policy": "prescriptive", **_arguments(device_name, region, extents)}
    return {"execute": "cxl-add-dynamic-capacity", "arguments": arguments}


def release_capacity(topology: Topology, device_name: str, region: int, extents: list[Extent]) -> dict[str, Any]:
    """The QMP command that asks for `extents` back. Raises as add_capacity does."""
    _check(topology, device_name, region, extents)
    arguments = {"removal-policy": "prescriptive", **_arguments(device_name, region, extents)}
    return {"execute": "cxl-release-dynamic-capacity", "arguments": arguments}


def _arguments(device_name: str, region: int, extents: list[Extent]) -> dict[str, Any]:
    return {
        "path": f"/machine/peripheral/{device_name}",
        "host-id": 0,
        "region": region,
        "extents": [{"offset": extent.offset_bytes, "len": extent.size_bytes} for extent in extents],
    }


def _check(topology: Topology, device_name: str, region: int, extents: list[Extent]) -> None:
    dynamic = [device for device in topology.devices if device.dc_size_bytes]
    for device in dynamic:
        if device.name == device_name:
            _check_region(device, region, extents)
            return
    known = ", ".join(f"'{device.name}'" for device in dynamic) or "none has any"
    raise ExtentError(
        f"device '{device_name}': has no dynamic capacity in bed '{topology.name}' (devices with it: {known})"
    )


def _check_region(device: Device, region: int, extents: list[Extent]) -> None:
    owner = f"device '{device.name}'"
    if not 0 <= region < device.dc_regions:
        raise ExtentError(f"{owner}: region={region} is outside 0 to {device.dc_regions - 1} (choose one of them)")
    region_bytes = (device.dc_size_bytes or 0) // device.dc_regions
    end_bytes = 0
    for extent in sorted(extents, key=lambda extent: extent.offset_bytes):
        words = f"{owner}: region {region}: extent of {extent.size_bytes} bytes at {extent.offset_bytes}"
        if extent.size_bytes < 1 or extent.offset_bytes % BLOCK_BYTES or extent.size_bytes % BLOCK_BYTES:
            raise ExtentError(f"{words} is not whole blocks of {BLOCK_BYTES} (round both to it)")
        if extent.offset_bytes < end_bytes:
            raise ExtentError(
                f"{words} lies over the one before it or before the region (start at {end_bytes} or later)"
            )
        end_bytes = extent.offset_bytes + extent.size_bytes
        if end_bytes > region_bytes:
            raise ExtentError(f"{words} ends past the region's {region_bytes} (make it smaller)")

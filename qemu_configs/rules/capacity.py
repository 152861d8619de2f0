"""What regions take of devices and of the guest's own memory, and the orders in which Linux gives both out.

Knows one host at a time; bed.py says whose it is. Source, unless another is named: Linux 6.12, drivers/cxl/core (region.c,
hdm.c), where each of these ends in -EBUSY, -EINVAL or -ENOSPC with a message that only a debug build prints.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise

from qemu_configs.rules.wording import CAPACITY_STEP_BYTES, round_up
from qemu_configs.topology import GIB, MIB, Device, Host, MemoryKind, Region, Topology, format_size

HDM_DECODERS = 4  # of each device, switch and bridge in QEMU
MIN_DRAM_BYTES = 128 * MIB  # the least that the stock guest was seen to boot with
SYSTEM_RAM_PER_STRUCT_PAGE_BYTE = 64  # 64 bytes of struct page for each 4 KiB page (include/linux/mm_types.h)
DAX_PER_STRUCT_PAGE_BYTE = 256  # two pages of them for each 2 MiB, the rest shared (mm/sparse-vmemmap.c)
LARGE_BLOCKS_FROM_BYTES = 62 * GIB  # RAM that ends at 64 GiB, above q35's hole of 2 (arch/x86/mm/init_64.c)
LARGE_BLOCK_BYTES = 2 * GIB

_KIND_WORDS: dict[MemoryKind, str] = {"ram": "volatile", "pmem": "persistent"}


def capacity_problems(host: Host, topology: Topology) -> Iterator[str]:
    """Breaches of what a host's devices and memory hold."""
    devices = {device.name: device for device in topology.devices}
    for region in host.regions:
        yield from (f"region '{region.name}': {problem}" for problem in _size(region, devices))
    for name in dict.fromkeys(attachment.device for attachment in host.attachments()):
        if name in devices:
            yield from (f"device '{name}': {problem}" for problem in _device(devices[name], host, topology))
    yield from _plugged_later(host, devices)
    yield from _struct_pages(host, topology)
    yield from _blocks(host, topology)


def kernel_bytes(host: Host, topology: Topology) -> int:
    """Memory of the guest that the kernel takes to know the pages of its regions, and to hold the label areas of persistent
    ones (drivers/nvdimm/dimm_devs.c)."""
    sizes = {"system-ram": 0, "devdax": 0, "pmem": 0}
    for region in host.regions:
        sizes[region.mode] += _size_bytes(region, topology)
    dax_bytes = sizes["devdax"] + sizes["pmem"]
    labelled = {name for region in host.regions if region.kind == "pmem" for name in region.devices}
    label_bytes = sum(device.lsa_size_bytes or 0 for device in topology.devices if device.name in labelled)
    page_bytes = sizes["system-ram"] // SYSTEM_RAM_PER_STRUCT_PAGE_BYTE + dax_bytes // DAX_PER_STRUCT_PAGE_BYTE
    return page_bytes + label_bytes


def share_bytes(region: Region, device: Device) -> int:
    """What a region takes of one of its devices."""
    if region.size_bytes:
        return region.size_bytes // (len(region.devices) or 1)
    return device.partition_bytes(region.kind)


def _size(region: Region, devices: dict[str, Device]) -> Iterator[str]:
    step_bytes = CAPACITY_STEP_BYTES * (len(region.devices) or 1)
    if region.size_bytes and region.size_bytes % step_bytes:
        yield (
            f"size_bytes={region.size_bytes} is not a multiple of 256 MiB for each of its devices "
            f"(next: {format_size(round_up(region.size_bytes, step_bytes))})"
        )
    for device in (devices[name] for name in dict.fromkeys(region.devices) if name in devices):
        other: MemoryKind = "ram" if region.kind == "pmem" else "pmem"
        if not device.partition_bytes(region.kind) and device.partition_bytes(other):
            fix = "mode: pmem" if region.kind == "ram" else "mode: devdax"
            yield (
                f"mode={region.mode}: device '{device.name}' has {_KIND_WORDS[other]} memory only "
                f"(say {fix}, or give the device some {_KIND_WORDS[region.kind]})"
            )


def _device(device: Device, host: Host, topology: Topology) -> Iterator[str]:
    regions = [region for region in host.regions_by_address() if device.name in region.devices]
    if len(regions) > HDM_DECODERS:
        yield f"{len(regions)} regions take its {HDM_DECODERS} HDM decoders (use fewer, larger regions)"
    for kind in _KIND_WORDS:
        takers = [region for region in regions if region.kind == kind]
        taken_bytes = sum(share_bytes(region, device) for region in takers)
        has_bytes = device.partition_bytes(kind)
        if has_bytes and taken_bytes > has_bytes:
            names = ", ".join(f"'{region.name}'" for region in takers)
            yield (
                f"regions {names} take {format_size(taken_bytes)} of its {format_size(has_bytes)} of {_KIND_WORDS[kind]} "
                "memory (a region without size takes all: say sizes that fit, or drop one)"
            )
    for earlier, later in pairwise(regions):
        if (earlier.kind, later.kind) == ("pmem", "ram"):
            yield (
                f"region '{earlier.name}' takes persistent memory in window '{earlier.window}', below volatile region "
                f"'{later.name}' in '{later.window}'; Linux gives out windows by rising address and a device's volatile "
                "memory first (swap the regions' windows)"
            )


def _plugged_later(host: Host, devices: dict[str, Device]) -> Iterator[str]:
    """Below a bridge or switch, what is made later must lie at a higher address than all before. Of two that are both made
    later, whoever plugs them chooses the order."""
    ranks = {window.name: number for number, window in enumerate(host.windows)}
    ports = [(f"bridge '{b.name}'", {*b.devices, *(d for s in b.switches for d in s.devices)}) for b in host.bridges]
    ports += [(f"switch '{s.name}'", set(s.devices)) for b in host.bridges for s in b.switches]
    for later, earlier in ((a, b) for pair in combinations(host.regions, 2) for a, b in (pair, pair[::-1])):
        if (
            _is_late(earlier, devices)
            or not _is_late(later, devices)
            or ranks.get(later.window, 0) >= ranks.get(earlier.window, 0)
        ):
            continue
        shared = next(
            (owner for owner, below in ports if below & {*later.devices} and below & {*earlier.devices}), None
        )
        if shared is not None:
            yield (
                f"region '{later.name}': is made when its device is plugged, and window '{later.window}' lies below "
                f"'{earlier.window}' of region '{earlier.name}'; Linux gives out the decoders of {shared} by rising address "
                "(swap the windows)"
            )


def _is_late(region: Region, devices: dict[str, Device]) -> bool:
    return any(name in devices and not devices[name].plugged for name in region.devices)


def _struct_pages(host: Host, topology: Topology) -> Iterator[str]:
    """Source: a guest of 256 MiB that was given 16 GiB of system RAM: `daxctl` says "File exists", the kernel -ENOMEM."""
    needed = MIN_DRAM_BYTES + kernel_bytes(host, topology)
    if host.memory_bytes >= MIN_DRAM_BYTES and host.total_memory_bytes < needed:
        fix = format_size(round_up(needed, 2 * MIB))
        yield (
            f"memory_bytes={host.memory_bytes} is too little to know the pages of its regions: Linux takes 1/64 of system-ram, "
            f"1/256 of other regions and the label areas of persistent ones, {needed - MIN_DRAM_BYTES} bytes beside the "
            f"{format_size(MIN_DRAM_BYTES)} to boot (at least: {fix})"
        )


def _blocks(host: Host, topology: Topology) -> Iterator[str]:
    if host.total_memory_bytes < LARGE_BLOCKS_FROM_BYTES:
        return
    for region in host.regions:
        if region.mode == "system-ram" and 0 < _size_bytes(region, topology) < LARGE_BLOCK_BYTES:
            yield (
                f"region '{region.name}': {format_size(_size_bytes(region, topology))} of system-ram is less than a block of "
                f"memory, 2 GiB in a host of {format_size(LARGE_BLOCKS_FROM_BYTES)} and more (make it larger, or the host smaller)"
            )


def _size_bytes(region: Region, topology: Topology) -> int:
    known = {device.name: device for device in topology.devices}
    return region.size_bytes or sum(
        known[name].partition_bytes(region.kind) for name in region.devices if name in known
    )

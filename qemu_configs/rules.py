"""What makes a bed file usable: every rule of CXL, QEMU and the guest kernel that its model must obey.

Knows the rules and how a breach is worded (owner, field, value, rule, fix); collects all breaches, raises nothing. A 0
stands for a number that could not be read (topology.UNREADABLE_IS_ZERO): rules pass it over, that breach being known.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TypeVar

from qemu_configs.topology import (
    GIB,
    GRANULARITIES_BYTES,
    MIB,
    NAME_PATTERN,
    WAYS,
    Access,
    Bridge,
    Device,
    Host,
    NumaNode,
    Pool,
    Region,
    Switch,
    Topology,
    Window,
    format_size,
)

CAPACITY_STEP_BYTES = 256 * MIB  # CXL 3.0 section 9.14.1.3; QEMU's CXL_CAPACITY_MULTIPLIER
MAX_BRIDGES = 16  # PCI slots of pcie.0 that rendering keeps for them
MAX_PORTS = 16  # root ports a bridge, downstream ports a switch
MAX_WINDOWS = 16  # QEMU's CXL_FMW array
HDM_DECODERS = 4  # of each device, switch and bridge in QEMU
HDM_TARGETS = 8  # a decoder's target list
MAX_DC_REGIONS = 8  # CXL 3.1 section 9.13.3
ADDRESS_SPACE_BYTES = 960 * GIB  # of a guest's 1 TiB (phys-bits 40), what lies below the reserved range at its end
HMAT_MAX = 65534  # QEMU packs latencies and bandwidths of one table in 16 bits
MIN_DRAM_BYTES = 256 * MIB  # below it Debian's kernel with its initramfs does not start
_SERIAL_UNSET = 2**64 - 1

_Part = TypeVar("_Part", Device, Host, Bridge, Switch, Window, Region, NumaNode, Pool)


@dataclass(frozen=True)
class Machine:
    """What a bed file is held against of the machine that is to run it."""

    memory_bytes: int
    num_numa_nodes: int


def find_problems(topology: Topology, machine: Machine | None = None) -> list[str]:
    """Check a whole bed, and whether it fits `machine` where one is given; returns every breach in words."""
    problems = [*_devices(topology), *_hosts(topology), *_sharing(topology), *_pools(topology)]
    return problems if machine is None else [*problems, *_machine(topology, machine)]


def _machine(topology: Topology, machine: Machine) -> Iterator[str]:
    """A device's memory counts once, however many hosts share it."""
    needed = topology.memory_needed_bytes()
    if needed > machine.memory_bytes:
        excess = format_size(_next_step(needed - machine.memory_bytes))
        yield (
            f"topology '{topology.name}': {needed} bytes of hosts and devices are more memory than the machine has "
            f"({machine.memory_bytes}; take {excess} off some memory or size)"
        )
    bindings = [(f"host '{h.name}'", h.host_node) for h in topology.hosts]
    bindings += [(f"host '{h.name}': numa node '{n.name}'", n.host_node) for h in topology.hosts for n in h.numa_nodes]
    for owner, node in bindings:
        if node is not None and not 0 <= node < machine.num_numa_nodes:
            yield (
                f"{owner}: host_node={node} is no NUMA node of this machine "
                f"(nodes: 0 to {machine.num_numa_nodes - 1}; leave host_node out to let the machine choose)"
            )


def _devices(topology: Topology) -> Iterator[str]:
    yield from _names("topology", "devices", topology.devices)
    yield from _name("topology", topology.name)
    for first, second in _equal_pairs(topology.devices, lambda device: device.serial):
        yield (
            f"device '{second.name}': serial={second.serial:#x} is also device '{first.name}''s "
            "(the guest finds a device by its serial; give each its own)"
        )
    for device in topology.devices:
        yield from _device(device)


def _device(device: Device) -> Iterator[str]:
    owner = f"device '{device.name}'"
    if device.serial >= _SERIAL_UNSET:
        yield f"{owner}: serial={device.serial} is not a 64-bit number from 1 to 2^64-2 (choose one, such as 0x5ac0)"
    if device.size_bytes is None and device.dc_size_bytes is None:
        yield f"{owner}: size and dc_size are both missing; a device needs memory (add size: 512M)"
    yield from _capacity(owner, "size_bytes", device.size_bytes)
    yield from _capacity(owner, "dc_size_bytes", device.dc_size_bytes)
    if device.dc_regions > MAX_DC_REGIONS:
        yield f"{owner}: dc_regions={device.dc_regions} is outside 1 to {MAX_DC_REGIONS} (choose one of them)"
    elif (
        device.dc_regions and device.dc_size_bytes and device.dc_size_bytes % (device.dc_regions * CAPACITY_STEP_BYTES)
    ):
        fix = format_size(_next_step(device.dc_size_bytes, device.dc_regions * CAPACITY_STEP_BYTES))
        yield (
            f"{owner}: dc_size_bytes={device.dc_size_bytes} does not split in dc_regions={device.dc_regions} regions "
            f"of whole 256 MiB (next: {fix})"
        )
    if device.dc_size_bytes is None and device.dc_regions > 1:
        yield f"{owner}: dc_regions={device.dc_regions} without dc_size splits nothing (add dc_size or drop dc_regions)"


def _hosts(topology: Topology) -> Iterator[str]:
    if not topology.hosts:
        yield "topology: hosts is empty; a bed has at least one host (add one with a bridge and a window)"
    yield from _names("topology", "hosts", topology.hosts)
    for host in topology.hosts:
        yield from (f"host '{host.name}': {problem}" for problem in _host(host, topology))


def _host(host: Host, topology: Topology) -> Iterator[str]:
    if host.vcpus > 255:
        yield f"vcpus={host.vcpus} is outside 1 to 255 (2 suit a small machine)"
    yield from _dram("memory_bytes", host.memory_bytes, MIN_DRAM_BYTES)
    if not any(True for _ in host.attachments()) and not host.numa_nodes:
        yield "has neither a device nor a further NUMA node; there is nothing to emulate (attach a device to a bridge)"
    yield from _numa(host)
    yield from _bridges(host, topology)
    yield from _windows(host)
    yield from _regions(host, topology)


def _numa(host: Host) -> Iterator[str]:
    yield from _names("", "numa_nodes", host.numa_nodes)
    if host.numa_nodes and host.local_access is None:
        yield "local_access is missing; the HMAT needs node 0 beside numa_nodes (add its latencies and bandwidths)"
    if host.local_access is not None:
        yield from _access("local_access", host.local_access)
    for node in host.numa_nodes:
        owner = f"numa node '{node.name}': "
        yield from (owner + problem for problem in _dram("memory_bytes", node.memory_bytes, 128 * MIB))
        if node.distance and not 11 <= node.distance <= 254:
            yield f"{owner}distance={node.distance} is outside 11 to 254 (10 is local; 20 is usual)"
        yield from _access(f"{owner}access", node.access)


def _access(owner: str, access: Access) -> Iterator[str]:
    for field, value in access:
        if value > HMAT_MAX:
            yield f"{owner}: {field}={value} does not fit the HMAT (1 to {HMAT_MAX})"


def _dram(field: str, size_bytes: int, least_bytes: int) -> Iterator[str]:
    if size_bytes and (size_bytes < least_bytes or size_bytes % (2 * MIB)):
        fix = format_size(max(least_bytes, _next_step(size_bytes, 2 * MIB)))
        yield f"{field}={size_bytes} is not a multiple of 2 MiB from {format_size(least_bytes)} on (next: {fix})"


def _bridges(host: Host, topology: Topology) -> Iterator[str]:
    yield from _names("", "bridges", host.bridges)
    yield from _names("", "switches", [switch for bridge in host.bridges for switch in bridge.switches])
    yield from _attachments(host, topology)
    yield from _buses(host.bridges)
    if len(host.bridges) > MAX_BRIDGES:
        yield f"bridges: {len(host.bridges)} are more than {MAX_BRIDGES}, which is all that pcie.0 has room for"
    for bridge in host.bridges:
        if len(bridge.devices) + len(bridge.switches) > MAX_PORTS:
            yield f"bridge '{bridge.name}': more than {MAX_PORTS} root ports (put the devices behind switches)"
        for switch in bridge.switches:
            if not 1 <= len(switch.devices) <= MAX_PORTS:
                yield f"switch '{switch.name}': {len(switch.devices)} devices are outside 1 to {MAX_PORTS}"


def _attachments(host: Host, topology: Topology) -> Iterator[str]:
    known = [device.name for device in topology.devices]
    seen: dict[str, str] = {}
    for attachment in host.attachments():
        place = f"switch '{attachment.switch.name}'" if attachment.switch else f"bridge '{attachment.bridge.name}'"
        if attachment.device not in known:
            yield f"{place}: devices: '{attachment.device}' is no device of this bed ({_choices(known)})"
        elif attachment.device in seen:
            elsewhere = seen[attachment.device]
            yield f"{place}: devices: '{attachment.device}' already sits on {elsewhere} (attach it once a host)"
        seen.setdefault(attachment.device, place)


def _buses(bridges: tuple[Bridge, ...]) -> Iterator[str]:
    for bridge in bridges:
        if bridge.bus > 255:
            yield f"bridge '{bridge.name}': bus={bridge.bus} is outside 1 to 255 (12 is usual for the first)"
        elif bridge.bus and bridge.last_bus > 255:
            yield (
                f"bridge '{bridge.name}': bus={bridge.bus} with {bridge.num_buses} buses ends at {bridge.last_bus}, "
                f"above 255 (at most: {256 - bridge.num_buses})"
            )
    placed = sorted((bridge for bridge in bridges if bridge.bus > 0), key=lambda bridge: bridge.bus)
    for lower, upper in pairwise(placed):
        if upper.bus == lower.bus:
            yield f"bridge '{upper.name}': bus={upper.bus} is also bridge '{lower.name}''s (next: {lower.last_bus + 1})"
        elif upper.bus <= lower.last_bus:
            yield (
                f"bridge '{upper.name}': bus={upper.bus} meets bridge '{lower.name}', which needs buses {lower.bus} to "
                f"{lower.last_bus} for its ports and devices (next: {lower.last_bus + 1})"
            )


def _windows(host: Host) -> Iterator[str]:
    yield from _names("", "windows", host.windows)
    if any(True for _ in host.attachments()) and not host.windows:
        yield "windows is empty; without a window no device can be mapped (add one that targets a bridge)"
    if len(host.windows) > MAX_WINDOWS:
        yield f"windows: {len(host.windows)} are more than {MAX_WINDOWS}, QEMU's limit"
    span_bytes = host.total_memory_bytes + sum(window.size_bytes for window in host.windows)
    if span_bytes > ADDRESS_SPACE_BYTES:
        yield (
            f"windows: {span_bytes} bytes of windows and memory pass the guest's address space of "
            f"{ADDRESS_SPACE_BYTES} (make a window smaller)"
        )
    for window in host.windows:
        yield from (f"window '{window.name}': {problem}" for problem in _window(window, host))


def _window(window: Window, host: Host) -> Iterator[str]:
    bridges = [bridge.name for bridge in host.bridges]
    for target in dict.fromkeys(window.targets):
        if target not in bridges:
            yield f"targets: '{target}' does not resolve to a bridge of this host ({_choices(bridges)})"
        if window.targets.count(target) > 1:
            yield f"targets: '{target}' is listed more than once (QEMU maps it, no region can use it; list it once)"
    yield from _ways(window.ways, len(window.targets), "targets")
    yield from _capacity("", "size_bytes", window.size_bytes)
    step_bytes = CAPACITY_STEP_BYTES * (len(window.targets) or 1)
    if window.size_bytes % CAPACITY_STEP_BYTES == 0 and window.size_bytes % step_bytes:
        fix = format_size(_next_step(window.size_bytes, step_bytes))
        yield f"size_bytes={window.size_bytes} is not a multiple of 256 MiB for each of its targets (next: {fix})"
    yield from _granularity(window.granularity_bytes)


def _regions(host: Host, topology: Topology) -> Iterator[str]:
    yield from _names("", "regions", host.regions)
    for first, second in combinations(host.regions, 2):
        for device in dict.fromkeys(first.devices):
            if device in second.devices:
                yield (
                    f"region '{second.name}': devices: '{device}' is already in region '{first.name}' "
                    "(a region takes whole devices; drop it from one)"
                )
    for region in host.regions:
        yield from (f"region '{region.name}': {problem}" for problem in _region(region, host, topology))
    yield from _decoders(host)
    yield from _window_room(host, topology)


def _region(region: Region, host: Host, topology: Topology) -> Iterator[str]:
    windows = [window.name for window in host.windows]
    yield from _ways(region.ways, len(region.devices), "devices")
    yield from _granularity(region.granularity_bytes)
    yield from _region_devices(region, host, topology)
    if region.window not in windows:
        yield f"window='{region.window}' does not resolve to a window of this host ({_choices(windows)})"
    else:
        yield from _under_window(region, host.window(region.window), host)


def _region_devices(region: Region, host: Host, topology: Topology) -> Iterator[str]:
    held = [attachment.device for attachment in host.attachments()]
    for name in dict.fromkeys(region.devices):
        if name not in held:
            yield f"devices: '{name}' is not attached to this host ({_choices(held)})"
        if region.devices.count(name) > 1:
            yield f"devices: '{name}' is listed more than once (list it once)"
    used = [device for device in topology.devices if device.name in region.devices]
    for device in used:
        if device.size_bytes is None and device.dc_size_bytes is not None:
            yield (
                f"devices: '{device.name}' has dynamic capacity only, which no stock kernel brings online "
                "(leave it out of regions; drive it over QMP)"
            )
    sizes = {device.size_bytes for device in used if device.size_bytes}
    if len(sizes) > 1:
        yield (
            f"devices: sizes {', '.join(format_size(size) for size in sorted(sizes))} differ; "
            "interleaved devices are of one size (make them equal or use a region each)"
        )


def _under_window(region: Region, window: Window, host: Host) -> Iterator[str]:
    num_targets = len(window.targets) or 1
    if len(region.devices) % num_targets:
        yield (
            f"devices: {len(region.devices)} do not spread evenly over the {num_targets} targets of window "
            f"'{window.name}' (use {num_targets} or a multiple, or a window with fewer targets)"
        )
        return
    if num_targets > 1 and region.granularity_bytes != window.granularity_bytes:
        yield (
            f"granularity_bytes={region.granularity_bytes} differs from window '{window.name}''s, which the guest "
            f"refuses when a window interleaves (use {window.granularity_bytes})"
        )
    bridge_names = [bridge.name for bridge in host.bridges]
    bridge_of = {attachment.device: attachment.bridge.name for attachment in host.attachments()}
    for position, device in enumerate(region.devices):
        target = window.targets[position % num_targets] if window.targets else None
        if device in bridge_of and target in bridge_names and bridge_of[device] != target:
            yield (
                f"devices: '{device}' at position {position} is under bridge '{bridge_of[device]}', where window "
                f"'{window.name}' reaches bridge '{target}' (order the devices as the window's targets)"
            )


def _decoders(host: Host) -> Iterator[str]:
    for bridge in host.bridges:
        ports = [{name} for name in bridge.devices] + [set(switch.devices) for switch in bridge.switches]
        yield from _decoders_of(f"bridge '{bridge.name}'", ports, host.regions)
        for switch in bridge.switches:
            yield from _decoders_of(f"switch '{switch.name}'", [{name} for name in switch.devices], host.regions)


def _decoders_of(owner: str, ports: list[set[str]], regions: tuple[Region, ...]) -> Iterator[str]:
    num_targets = [sum(not port.isdisjoint(region.devices) for port in ports) for region in regions]
    num_regions = sum(count > 0 for count in num_targets)
    if num_regions > HDM_DECODERS:
        yield (
            f"{owner}: {num_regions} regions pass through its {HDM_DECODERS} HDM decoders "
            "(use fewer, wider regions or another bridge)"
        )
    for region, count in zip(regions, num_targets, strict=True):
        if count > HDM_TARGETS:
            yield f"{owner}: region '{region.name}' interleaves {count} of its ports, a decoder takes {HDM_TARGETS}"


def _window_room(host: Host, topology: Topology) -> Iterator[str]:
    sizes = {device.name: device.size_bytes or 0 for device in topology.devices}
    for window in host.windows:
        inside = [region for region in host.regions if region.window == window.name]
        needed = sum(sizes.get(name, 0) for region in inside for name in region.devices)
        if window.size_bytes and needed > window.size_bytes:
            yield (
                f"window '{window.name}': size_bytes={window.size_bytes} is too small for its regions, which need "
                f"{needed} (at least: {format_size(_next_step(needed))})"
            )


def _sharing(topology: Topology) -> Iterator[str]:
    for device in topology.devices:
        holders = [host for host in topology.hosts if any(a.device == device.name for a in host.attachments())]
        owner = f"device '{device.name}'"
        names = ", ".join(f"'{host.name}'" for host in holders)
        if not holders:
            yield f"{owner}: no host holds it (list it under a bridge or switch, or drop it)"
        elif len(holders) > 1 and not device.shared:
            yield f"{owner}: shared=false and hosts {names} hold it (say shared: true, or give each its own)"
        elif len(holders) == 1 and device.shared:
            yield f"{owner}: shared=true and host {names} alone holds it (attach it to another host or drop shared)"
        if device.shared:
            yield from _one_geometry(device, holders)


def _one_geometry(device: Device, holders: list[Host]) -> Iterator[str]:
    """Hosts that map a shared device differently would each read the other's bytes in the wrong order."""
    found = [(host, region) for host in holders for region in host.regions if device.name in region.devices]
    for (host, region), (other_host, other) in pairwise(found):
        same = region.devices == other.devices
        if host is not other_host and not (same and region.granularity_bytes == other.granularity_bytes):
            yield (
                f"device '{device.name}': host '{host.name}' interleaves it as region '{region.name}' and host "
                f"'{other_host.name}' otherwise as '{other.name}' (give both the same devices, order and granularity)"
            )


def _pools(topology: Topology) -> Iterator[str]:
    yield from _names("topology", "pools", topology.pools)
    known = [device.name for device in topology.devices]
    for pool in topology.pools:
        owner = f"pool '{pool.name}'"
        if not pool.devices:
            yield f"{owner}: devices is empty (list the devices that hold it)"
        for name in dict.fromkeys(pool.devices):
            if name not in known:
                yield f"{owner}: devices: '{name}' is no device of this bed ({_choices(known)})"
            if pool.devices.count(name) > 1:
                yield f"{owner}: devices: '{name}' is listed more than once (list it once)"
        for host in topology.hosts:
            yield from (f"{owner}: {problem}" for problem in _pool_on(pool, host))


def _pool_on(pool: Pool, host: Host) -> Iterator[str]:
    held = {attachment.device for attachment in host.attachments()}
    mapped = [region for region in host.regions if not set(region.devices).isdisjoint(pool.devices)]
    for region in mapped:
        if region.mode != "devdax":
            yield f"host '{host.name}': region '{region.name}' has mode={region.mode}, a pool needs devdax"
        for outside in sorted(set(region.devices) - set(pool.devices)):
            yield f"host '{host.name}': region '{region.name}' also spans '{outside}', which is not the pool's"
    covered = {device for region in mapped for device in region.devices}
    for name in pool.devices:
        if name in held and name not in covered:
            yield f"host '{host.name}': no region maps '{name}' (add a region over it, mode: devdax)"


def _names(owner: str, field: str, parts: Iterable[_Part]) -> Iterator[str]:
    prefix = f"{owner}: " if owner else ""
    listed = list(parts)
    for _, second in _equal_pairs(listed, lambda part: part.name):
        yield f"{prefix}{field}: name='{second.name}' is used twice (give each its own)"
    for part in listed:
        yield from _name(f"{prefix}{field}", part.name)


def _name(owner: str, name: str) -> Iterator[str]:
    if not re.fullmatch(NAME_PATTERN, name):
        yield (
            f"{owner}: name='{name}' is not a name for QEMU, libvirt and files alike "
            "(a small letter, then up to 31 small letters, digits and dashes)"
        )


def _equal_pairs(parts: Iterable[_Part], key: Callable[[_Part], object]) -> Iterator[tuple[_Part, _Part]]:
    """Each part whose key an earlier one already has, with that earlier one; 0 is no key."""
    first_with: dict[object, _Part] = {}
    for part in parts:
        value = key(part)
        if value in first_with and value != 0:
            yield first_with[value], part
        first_with.setdefault(value, part)


def _ways(ways: int | None, count: int, counted: str) -> Iterator[str]:
    if ways and ways not in WAYS:
        yield f"ways={ways} is no CXL interleave (one of {', '.join(map(str, WAYS))})"
    elif ways and ways != count:
        yield f"ways={ways} disagrees with {count} {counted} (list {ways} {counted} or say ways: {count})"
    if count not in WAYS:
        yield f"{counted}: {count} are no CXL interleave (one of {', '.join(map(str, WAYS))})"


def _granularity(granularity_bytes: int) -> Iterator[str]:
    if granularity_bytes and granularity_bytes not in GRANULARITIES_BYTES:
        allowed = ", ".join(format_size(size) for size in GRANULARITIES_BYTES)
        yield f"granularity_bytes={granularity_bytes} is no CXL granularity (one of {allowed})"


def _capacity(owner: str, field: str, size_bytes: int | None) -> Iterator[str]:
    prefix = f"{owner}: " if owner else ""
    if size_bytes is not None and size_bytes % CAPACITY_STEP_BYTES:
        yield f"{prefix}{field}={size_bytes} is not a multiple of 256 MiB (next: {_next_step(size_bytes)})"


def _next_step(size_bytes: int, step_bytes: int = CAPACITY_STEP_BYTES) -> int:
    return -(-size_bytes // step_bytes) * step_bytes


def _choices(names: Iterable[str]) -> str:
    listed = ", ".join(f"'{name}'" for name in names)
    return f"known: {listed}" if listed else "none is defined"

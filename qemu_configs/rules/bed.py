"""What makes a bed file usable: every rule of CXL, QEMU and the guest kernel that its model must obey.

Knows the rules and how a breach is worded (owner, field, value, rule, fix); collects all breaches, raises nothing. A 0
stands for a number that could not be read (topology.UNREADABLE_IS_ZERO): rules pass it over, that breach being known.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from qemu_configs.rules.capacity import MIN_DRAM_BYTES, capacity_problems, share_bytes
from qemu_configs.rules.interleave import region_problems, window_problems
from qemu_configs.rules.wording import (
    CAPACITY_STEP_BYTES,
    capacity_problem,
    choices,
    equal_pairs,
    name_problem,
    name_problems,
    round_up,
)
from qemu_configs.slots import DISK_SLOT, EXCHANGE_SLOT, FIRST_BRIDGE_SLOT, NET_SLOT, RNG_SLOT
from qemu_configs.topology import MIB, Access, Bridge, Device, Host, PoolSpec, Region, Topology, format_size

MAX_BRIDGES = 16  # PCI slots of pcie.0 that rendering keeps for them
MAX_PORTS = 16  # root ports per bridge, downstream ports per switch
MAX_DC_REGIONS = 8  # CXL 3.1 section 9.13.3
HMAT_MAX = 65534  # QEMU packs latencies and bandwidths of one table in 16 bits
LSA_STEP_BYTES = 4096  # a page of the file behind it
# What the testbed itself tells QEMU; the last of two would win.
OWN_QEMU_OPTIONS = frozenset(
    {"-S", "-accel", "-append", "-daemonize", "-enable-kvm", "-incoming", "-initrd", "-kernel", "-m", "-name"}
    | {"-no-reboot", "-qmp", "-smp", "-snapshot", "-uuid"}
)
_SERIAL_UNSET = 2**64 - 1


@dataclass(frozen=True)
class Machine:
    """What a bed file is held against beside its own rules. memory_bytes, num_numa_nodes: of the machine that is to run it,
    None where any will do; more_rules: those of others who read bed files, worded as these are."""

    memory_bytes: int | None = None
    num_numa_nodes: int | None = None
    more_rules: tuple[Callable[[Topology], Iterable[str]], ...] = ()


def find_problems(topology: Topology, machine: Machine | None = None) -> list[str]:
    """Check a whole bed, and whether it fits `machine` where one is given; returns every breach in words."""
    problems = [*_devices(topology), *_hosts(topology), *_sharing(topology), *_pools(topology)]
    return problems if machine is None else [*problems, *_machine(topology, machine)]


def _machine(topology: Topology, machine: Machine) -> Iterator[str]:
    for rule in machine.more_rules:
        yield from rule(topology)
    yield from _memory(topology, machine)
    bindings = [(f"host '{h.name}'", h.host_node) for h in topology.hosts]
    bindings += [(f"host '{h.name}': numa node '{n.name}'", n.host_node) for h in topology.hosts for n in h.numa_nodes]
    for owner, node in bindings:
        if node is not None and machine.num_numa_nodes is not None and not 0 <= node < machine.num_numa_nodes:
            yield (
                f"{owner}: host_node={node} is no NUMA node of this machine "
                f"(nodes: 0 to {machine.num_numa_nodes - 1}; leave host_node out to let the machine choose)"
            )


def _memory(topology: Topology, machine: Machine) -> Iterator[str]:
    """A device's memory counts once, however many hosts share it."""
    needed = topology.memory_needed_bytes()
    if machine.memory_bytes is not None and needed > machine.memory_bytes:
        excess = format_size(round_up(needed - machine.memory_bytes))
        yield (
            f"topology '{topology.name}': {needed} bytes of hosts and devices are more memory than the machine has "
            f"({machine.memory_bytes}; take {excess} off some memory or size, or say sparse: true of a device that will not be "
            "written whole)"
        )


def _devices(topology: Topology) -> Iterator[str]:
    yield from name_problems("topology", "devices", topology.devices)
    yield from name_problem("topology", topology.name)
    for first, second in equal_pairs(topology.devices, lambda device: device.serial):
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
    if device.size_bytes is device.persistent_size_bytes is device.dc_size_bytes is None:
        yield f"{owner}: size, persistent_size and dc_size are all missing; a device needs memory (add size: 512M)"
    yield from capacity_problem(owner, "size_bytes", device.size_bytes)
    yield from capacity_problem(owner, "persistent_size_bytes", device.persistent_size_bytes)
    yield from _labels(owner, device)
    yield from capacity_problem(owner, "dc_size_bytes", device.dc_size_bytes)
    if device.dc_regions > MAX_DC_REGIONS:
        yield f"{owner}: dc_regions={device.dc_regions} is outside 1 to {MAX_DC_REGIONS} (choose one of them)"
    elif (
        device.dc_regions and device.dc_size_bytes and device.dc_size_bytes % (device.dc_regions * CAPACITY_STEP_BYTES)
    ):
        fix = format_size(round_up(device.dc_size_bytes, device.dc_regions * CAPACITY_STEP_BYTES))
        yield (
            f"{owner}: dc_size_bytes={device.dc_size_bytes} does not split in dc_regions={device.dc_regions} regions "
            f"of whole 256 MiB (next: {fix})"
        )
    if device.dc_size_bytes is None and device.dc_regions > 1:
        yield f"{owner}: dc_regions={device.dc_regions} without dc_size splits nothing (add dc_size or drop dc_regions)"


def _labels(owner: str, device: Device) -> Iterator[str]:
    if device.persistent_size_bytes and device.lsa_size_bytes is None:
        yield f"{owner}: lsa_size is missing; QEMU gives no persistent memory without a label area (add lsa_size: 1M)"
    if device.lsa_size_bytes and device.lsa_size_bytes % LSA_STEP_BYTES:
        fix = format_size(round_up(device.lsa_size_bytes, LSA_STEP_BYTES))
        yield f"{owner}: lsa_size_bytes={device.lsa_size_bytes} is not a multiple of 4 KiB (next: {fix})"


def _hosts(topology: Topology) -> Iterator[str]:
    if not topology.hosts:
        yield "topology: hosts is empty; a bed has at least one host (add one with a bridge and a window)"
    yield from name_problems("topology", "hosts", topology.hosts)
    for host in topology.hosts:
        yield from (f"host '{host.name}': {problem}" for problem in _host(host, topology))


def _host(host: Host, topology: Topology) -> Iterator[str]:
    if host.vcpus > 255:
        yield f"vcpus={host.vcpus} is outside 1 to 255 (2 suit a small machine)"
    yield from _dram("memory_bytes", host.memory_bytes)
    yield from _numa(host)
    yield from _bridges(host, topology)
    yield from window_problems(host)
    yield from region_problems(host, topology)
    yield from capacity_problems(host, topology)
    yield from _qemu_words(host)


def _qemu_words(host: Host) -> Iterator[str]:
    if host.qemu and not host.qemu[0].startswith("-"):
        yield f"qemu: '{host.qemu[0]}' is no option; the first word starts with a dash (write it as: [-device, nvme])"
    for word in host.qemu:
        if word in OWN_QEMU_OPTIONS:
            yield f"qemu: {word} is given by the testbed itself (use the bed file's keys, such as vcpus and memory)"
        elif not word.isprintable() or not word:
            yield f"qemu: {word!r} cannot stand on a command line (write printable text)"
        yield from _slot(word, host)


def _slot(word: str, host: Host) -> Iterator[str]:
    """Slots of pcie.0 that the testbed's own devices and bridges sit in, and q35's; QEMU reads them as hexadecimal."""
    taken = {0, DISK_SLOT, RNG_SLOT, NET_SLOT, EXCHANGE_SLOT, 0x1F}
    taken |= set(range(FIRST_BRIDGE_SLOT, FIRST_BRIDGE_SLOT + len(host.bridges)))
    match = re.search(r"(?:^|,)addr=(?:0x)?([0-9a-fA-F]+)(?:[.,]|$)", word)
    if match and ",bus=pcie.0" in word and int(match[1], 16) in taken:
        free = ", ".join(f"{slot:#x}" for slot in range(1, 0x1F) if slot not in taken)
        yield f"qemu: {word}: addr={match[1]} is a slot of the testbed's own devices (free: {free})"


def _numa(host: Host) -> Iterator[str]:
    yield from name_problems("", "numa_nodes", host.numa_nodes)
    if host.numa_nodes and host.local_access is None:
        yield "local_access is missing; the HMAT needs node 0 beside numa_nodes (add its latencies and bandwidths)"
    if host.local_access is not None:
        yield from _access("local_access", host.local_access)
    for node in host.numa_nodes:
        owner = f"numa node '{node.name}': "
        yield from (owner + problem for problem in _dram("memory_bytes", node.memory_bytes))
        if node.distance and not 11 <= node.distance <= 254:
            yield f"{owner}distance={node.distance} is outside 11 to 254 (10 is local; 20 is usual)"
        yield from _access(f"{owner}access", node.access)


def _access(owner: str, access: Access) -> Iterator[str]:
    for field, value in access:
        if value > HMAT_MAX:
            yield f"{owner}: {field}={value} does not fit the HMAT (1 to {HMAT_MAX})"


def _dram(field: str, size_bytes: int) -> Iterator[str]:
    if size_bytes and (size_bytes < MIN_DRAM_BYTES or size_bytes % (2 * MIB)):
        fix = format_size(max(MIN_DRAM_BYTES, round_up(size_bytes, 2 * MIB)))
        yield f"{field}={size_bytes} is not a multiple of 2 MiB from {format_size(MIN_DRAM_BYTES)} on (next: {fix})"


def _bridges(host: Host, topology: Topology) -> Iterator[str]:
    yield from name_problems("", "bridges", host.bridges)
    yield from name_problems("", "switches", [switch for bridge in host.bridges for switch in bridge.switches])
    yield from _attachments(host, topology)
    yield from _buses(host.bridges)
    if len(host.bridges) > MAX_BRIDGES:
        yield f"bridges: {len(host.bridges)} are more than {MAX_BRIDGES}, which is all that pcie.0 has room for"
    for bridge in host.bridges:
        if bridge.num_ports > MAX_PORTS:
            yield f"bridge '{bridge.name}': more than {MAX_PORTS} root ports (put the devices behind switches)"
        for switch in bridge.switches:
            if not 1 <= switch.num_ports <= MAX_PORTS:
                yield (
                    f"switch '{switch.name}': {switch.num_ports} devices and free ports are outside 1 to {MAX_PORTS} "
                    "(list its devices, or say free_ports)"
                )
            if switch.switches:
                yield (
                    f"switch '{switch.name}': switches: QEMU reaches no memory behind a second switch, though a guest lists it "
                    f"(its cxl_cfmws_find_device looks one level down); put '{switch.switches[0].name}' on a root port"
                )


def _attachments(host: Host, topology: Topology) -> Iterator[str]:
    known = [device.name for device in topology.devices]
    seen: dict[str, str] = {}
    for attachment in host.attachments():
        place = f"switch '{attachment.switch.name}'" if attachment.switch else f"bridge '{attachment.bridge.name}'"
        if attachment.device not in known:
            yield f"{place}: devices: '{attachment.device}' is no device of this bed ({choices(known)})"
        elif attachment.device in seen:
            elsewhere = seen[attachment.device]
            yield f"{place}: devices: '{attachment.device}' already sits on {elsewhere} (attach it once per host)"
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
    """Hosts that map a shared device differently would each read the other's bytes in the wrong order or place: the regions
    that both have are made alike, one after another."""
    found = [(host, [r for r in host.regions_by_address() if device.name in r.devices]) for host in holders]
    for (host, regions), (other_host, others) in pairwise([(host, regions) for host, regions in found if regions]):
        for region, other in zip(regions, others, strict=False):
            if _geometry(region, device) != _geometry(other, device):
                yield (
                    f"device '{device.name}': host '{host.name}' interleaves it as region '{region.name}' and host "
                    f"'{other_host.name}' otherwise as '{other.name}' (give both the same devices, order, granularity and size)"
                )
                break


def _geometry(region: Region, device: Device) -> tuple[object, ...]:
    return region.devices, region.granularity_bytes, region.kind, share_bytes(region, device)


def _pools(topology: Topology) -> Iterator[str]:
    yield from name_problems("topology", "pools", topology.pools)
    known = [device.name for device in topology.devices]
    for pool in topology.pools:
        owner = f"pool '{pool.name}'"
        if not pool.devices:
            yield f"{owner}: devices is empty (list the devices that hold it)"
        for name in dict.fromkeys(pool.devices):
            if name not in known:
                yield f"{owner}: devices: '{name}' is no device of this bed ({choices(known)})"
            if pool.devices.count(name) > 1:
                yield f"{owner}: devices: '{name}' is listed more than once (list it once)"
            yield from _is_plugged(owner, name, topology)
        for host in topology.hosts:
            yield from (f"{owner}: {problem}" for problem in _pool_on(pool, host))
        yield from _roles(owner, pool, topology)


def _is_plugged(owner: str, name: str, topology: Topology) -> Iterator[str]:
    if any(device.name == name and not device.plugged for device in topology.devices):
        yield f"{owner}: devices: '{name}' has plugged=false; a pool is there from the start (leave it out, or plug it)"


def _roles(owner: str, pool: PoolSpec, topology: Topology) -> Iterator[str]:
    holders = [host.name for host in topology.hosts_of(pool)]
    for role, name in (("writer", pool.writer), ("reader", pool.reader)):
        if name is not None and name not in holders:
            yield f"{owner}: {role}='{name}' is no host that maps all of the pool's devices ({choices(holders)})"


def _pool_on(pool: PoolSpec, host: Host) -> Iterator[str]:
    held = {attachment.device for attachment in host.attachments()}
    mapped = [region for region in host.regions if not set(region.devices).isdisjoint(pool.devices)]
    for region in mapped:
        if region.mode == "system-ram":
            yield f"host '{host.name}': region '{region.name}' has mode={region.mode}, a pool needs devdax"
        for outside in sorted(set(region.devices) - set(pool.devices)):
            yield f"host '{host.name}': region '{region.name}' also spans '{outside}', which is not the pool's"
    covered = {device for region in mapped for device in region.devices}
    for name in pool.devices:
        if name in held and name not in covered:
            yield f"host '{host.name}': no region maps '{name}' (add a region over it, mode: devdax)"

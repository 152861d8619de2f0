"""How Linux 6.12 makes CXL regions, written from drivers/cxl/core (region.c, hdm.c) in our own words: an oracle for the rules.

Knows ports, decoders and addresses as the kernel keeps them, and nothing of how qemu_configs.rules words its breaches.
"""

from dataclasses import dataclass, field

from qemu_configs.topology import MIB

STEP_BYTES = 256 * MIB
NUM_DECODERS = 4  # QEMU's bridges, switches and devices
NUM_TARGETS = 8
GRANULARITIES = [256 << n for n in range(7)]
WAYS = [1, 2, 3, 4, 6, 8, 12, 16]


class RefusedError(Exception):
    """The kernel would not make the region."""


@dataclass
class Port:
    """A host bridge, a switch or an endpoint. regions: start address and region reference of each, by name."""

    name: str
    parent: "Port | None"
    regions: dict = field(default_factory=dict)


@dataclass
class Reference:
    """A region at a port: cxl_region_ref with its decoder."""

    start: int
    next_hops: list = field(default_factory=list)  # the port below, of each endpoint attached so far
    targets: list = field(default_factory=list)
    ways: int = 0
    granularity: int = 0

    @property
    def num_targets(self):
        return len(set(self.next_hops))


class Kernel:
    """One host's CXL bus: windows in their order, regions made one by one."""

    def __init__(self, topology, host):
        self.topology, self.host = topology, host
        self.bridges = {bridge.name: Port(bridge.name, None) for bridge in host.bridges}
        self.endpoints = {}
        for place in host.attachments():
            parent = self.bridges[place.bridge.name]
            if place.switch:
                known = {p.parent.name: p.parent for p in self.endpoints.values()}
                parent = known.get(f"sw {place.switch.name}") or Port(f"sw {place.switch.name}", parent)
            self.endpoints[place.device] = Port(f"ep {place.device}", parent)
        self.windows, start = {}, 0
        for window in host.windows:
            self.windows[window.name] = [start, start + window.size_bytes]
            start += window.size_bytes
        self.dpa = {name: {"ram": 0, "pmem": 0, "num": 0} for name in self.endpoints}

    def create(self, region):
        """What `cxl create-region` and the kernel do, in this order."""
        window = self.host.window(region.window)
        ways, size_bytes = len(region.devices), self.topology.region_size_bytes(region)
        self._check_figures(region, window, ways, size_bytes)
        start = self._take_hpa(window, size_bytes)
        for name in region.devices:
            self._take_dpa(name, region.kind, size_bytes // ways)
        for position, name in enumerate(region.devices):
            self._attach(region, window, start, position, name)
        for position, name in enumerate(region.devices):
            for port in self._ports_down_to(name)[:-1]:
                self._set_up(region, window, position, port)

    def _check_figures(self, region, window, ways, size_bytes):
        """interleave_ways_store, interleave_granularity_store, alloc_hpa."""
        root_ways = len(window.targets)
        if ways not in WAYS or ways % root_ways or not _is_power_of_2(ways // root_ways):
            raise RefusedError(f"ways {ways} below a window of {root_ways}")
        if region.granularity_bytes not in GRANULARITIES:
            raise RefusedError("no such granularity")
        if root_ways > 1 and region.granularity_bytes != window.granularity_bytes:
            raise RefusedError("granularity differs from an interleaved window's")
        if not size_bytes or size_bytes % (STEP_BYTES * ways):
            raise RefusedError(f"size {size_bytes} for {ways} ways")

    def _take_hpa(self, window, size_bytes):
        start, end = self.windows[window.name]
        if start + size_bytes > end:
            raise RefusedError(f"no room in {window.name}")
        self.windows[window.name][0] += size_bytes
        return start

    def _take_dpa(self, name, kind, size_bytes):
        """cxl_dpa_alloc: decoders in turn, volatile memory before persistent."""
        taken = self.dpa[name]
        if taken["num"] == NUM_DECODERS:
            raise RefusedError(f"{name} has no decoder left")
        if kind == "ram" and taken["pmem"]:
            raise RefusedError(f"{name}: volatile memory was skipped")
        if taken[kind] + size_bytes > self.topology.device(name).partition_bytes(kind):
            raise RefusedError(f"{name}: no {kind} left")
        taken[kind] += size_bytes
        taken["num"] += 1

    def _ports_down_to(self, name):
        """From the host bridge to the endpoint."""
        ports, port = [], self.endpoints[name]
        while port is not None:
            ports.insert(0, port)
            port = port.parent
        return ports

    def _attach(self, region, window, start, position, name):
        """cxl_region_attach_position."""
        ports = self._ports_down_to(name)
        if ports[0].name != window.targets[position % len(window.targets)]:
            raise RefusedError(f"{name} at {position} is below {ports[0].name}")
        for below, port in zip([*ports[1:], None], ports, strict=True):
            reference = port.regions.get(region.name)
            if reference is None:
                if any(other.start > start for other in port.regions.values()):
                    raise RefusedError(f"{port.name}: order of addresses")
                if len(port.regions) == NUM_DECODERS:
                    raise RefusedError(f"{port.name}: no decoder")
                reference = port.regions[region.name] = Reference(start)
            elif below is None:
                raise RefusedError(f"{name} twice")
            reference.next_hops.append(below.name if below else "")
            if below and reference.num_targets > NUM_TARGETS:
                raise RefusedError(f"{port.name}: too many targets")

    def _set_up(self, region, window, position, port):
        """cxl_port_setup_targets."""
        reference, name = port.regions[region.name], region.devices[position]
        if not _is_power_of_2(reference.num_targets):
            raise RefusedError(f"{port.name}: {reference.num_targets} targets")
        hop = self._hop(port, name)
        if not reference.targets:
            self._set_interleave(region, window, port, reference)
        elif hop in reference.targets:
            distance = self._distance(region, window, port)
            if position < distance or self._hop(port, region.devices[position - distance]) != hop:
                raise RefusedError(f"{port.name}: {name} at {position} does not follow its peer")
            return
        reference.targets.append(hop)

    def _set_interleave(self, region, window, port, reference):
        if port.parent is None:
            root_ways = len(window.targets)
            granularity, ways = region.granularity_bytes, root_ways if _is_power_of_2(root_ways) else root_ways // 3
        else:
            above = port.parent.regions[region.name]
            granularity, ways = above.granularity, above.ways
        if granularity * ways not in GRANULARITIES:
            raise RefusedError(f"{port.name}: granularity {granularity * ways}")
        reference.ways, reference.granularity = reference.num_targets, granularity * ways

    def _distance(self, region, window, port):
        distance = len(window.targets)
        while port is not None:
            distance *= port.regions[region.name].num_targets
            port = port.parent
        return distance

    def _hop(self, port, name):
        """The port below `port` on the way to a device; None where the device is elsewhere."""
        ports = self._ports_down_to(name)
        return ports[ports.index(port) + 1].name if port in ports else None


def _is_power_of_2(number):
    return number > 0 and number & (number - 1) == 0

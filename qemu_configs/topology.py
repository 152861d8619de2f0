"""The bed file's model: hosts, bridges, switches, devices, windows, regions, NUMA nodes and pools, typed and frozen.

Knows shapes, types and what follows from them (where a device sits, how large a region is). Does not know what makes a
bed usable (rules.py), how files are read (bedfile.py) or how QEMU is told (render.py). Sizes are bytes, given as whole
numbers or with a binary suffix (`512M`, `4G`). Every number is positive, save for the 0 that stands for one that could
not be read while the rest of a faulty file is still being checked.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationInfo,
    WithJsonSchema,
)

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
NAME_PATTERN = r"^[a-z][a-z0-9-]{0,31}$"  # fits QEMU ids, host names, libvirt domain names and file names alike
GRANULARITIES_BYTES = tuple(256 << shift for shift in range(7))  # 256 B to 16 KiB, CXL 3.0 table 8-42
LOCAL_DISTANCE = 10  # SLIT
WAYS = (1, 2, 3, 4, 6, 8, 12, 16)  # CXL 3.0 section 8.2.4.19

UNREADABLE_IS_ZERO = "unreadable numbers are 0"  # validation context in which 0 may stand for what could not be read

_SUFFIX_BYTES = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1 << 40}
_FLAG_WORDS = {"yes": True, "on": True, "no": False, "off": False}
_SIZE_PATTERN = r"^([0-9]+)([KMGTkmgt]?)(iB)?$"


def parse_size(value: object) -> object:
    """Turn `512M`, `4G` or `1k` (binary suffixes, `iB` allowed) into bytes; whole numbers pass unchanged.

    Raises ValueError for other text; other types are left for pydantic to refuse."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(_SIZE_PATTERN, value)
    if match is None or (match[3] and not match[2]):
        raise ValueError("is not a size (write 512M or 4G: a whole number with K, M, G or T)")
    return int(match[1]) * _SUFFIX_BYTES[match[2].upper()]


def parse_flag(value: object) -> object:
    """Turn the words that YAML 1.1 took for true and false (yes, on; no, off) into them; others pass unchanged."""
    return _FLAG_WORDS.get(value.lower(), value) if isinstance(value, str) else value


def format_size(size_bytes: int) -> str:
    """Write a size as the bed file would: 536870912 -> `512M`; what no suffix divides stays in bytes."""
    for suffix in ("T", "G", "M", "K"):
        if size_bytes and size_bytes % _SUFFIX_BYTES[suffix] == 0:
            return f"{size_bytes // _SUFFIX_BYTES[suffix]}{suffix}"
    return str(size_bytes)


def _positive(value: int, info: ValidationInfo) -> int:
    if value < 1 and not (value == 0 and info.context == UNREADABLE_IS_ZERO):
        raise ValueError("is not a whole number from 1 on (write one)")
    return value


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError("is not a whole number from 0 on (write one)")
    return value


def _schema(**keys: object) -> WithJsonSchema:
    return WithJsonSchema(dict(keys))


_SIZE_SCHEMA = _schema(anyOf=[{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _SIZE_PATTERN}])
_Positive = Annotated[StrictInt, AfterValidator(_positive)]
Size = Annotated[_Positive, BeforeValidator(parse_size), _SIZE_SCHEMA]
Name = Annotated[StrictStr, _schema(type="string", pattern=NAME_PATTERN)]
Count = Annotated[_Positive, _schema(type="integer", minimum=1)]
Flag = Annotated[StrictBool, BeforeValidator(parse_flag), _schema(type="boolean")]
Free = Annotated[StrictInt, AfterValidator(_not_negative), _schema(type="integer", minimum=0)]
MemoryKind = Literal["ram", "pmem"]
Ways = Annotated[_Positive, _schema(type="integer", enum=list(WAYS))]


class Part(BaseModel):
    """What all parts of a bed file share: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Device(Part):
    """A Type-3 device: `size` of ordinary volatile memory, then `persistent_size`, and `dc_size` of dynamic capacity in
    `dc_regions` parts; `lsa_size` of label storage, where Linux keeps what it makes of persistent memory."""

    name: Name
    serial: Annotated[_Positive, _schema(type="integer", minimum=1, maximum=2**64 - 2)]
    size_bytes: Size | None = Field(default=None, validation_alias=AliasChoices("size", "size_bytes"))
    persistent_size_bytes: Size | None = Field(
        default=None, validation_alias=AliasChoices("persistent_size", "persistent_size_bytes")
    )
    lsa_size_bytes: Size | None = Field(default=None, validation_alias=AliasChoices("lsa_size", "lsa_size_bytes"))
    dc_size_bytes: Size | None = Field(default=None, validation_alias=AliasChoices("dc_size", "dc_size_bytes"))
    dc_regions: Count = 1
    shared: Flag = False  # one backing file given to several hosts
    sparse: Flag = False  # larger than what will be written to it: its capacity is not asked of the machine
    back_invalidate: Flag = (
        False  # claims coherence by hardware between the hosts that share it (HDM-DB); QEMU from 11.0 on
    )
    plugged: Flag = True  # false: its port is empty until `cxlbed plug`
    profile: StrictStr | None = None  # a timing profile's name; what it means is known to emulation.timing alone

    @property
    def capacity_bytes(self) -> int:
        """All kinds of capacity together."""
        return (self.size_bytes or 0) + (self.persistent_size_bytes or 0) + (self.dc_size_bytes or 0)

    @property
    def backed_bytes(self) -> int:
        """What the machine below must have for it: nothing is asked for a sparse device, which is written to in part."""
        return 0 if self.sparse else self.capacity_bytes + (self.lsa_size_bytes or 0)

    def partition_bytes(self, kind: "MemoryKind") -> int:
        """The part of the device that regions of that kind are made of."""
        return (self.persistent_size_bytes if kind == "pmem" else self.size_bytes) or 0


class Switch(Part):
    """A CXL switch on a root port of its own; one downstream port per device, then the free ones."""

    name: Name
    devices: tuple[Name, ...] = ()
    free_ports: Free = 0
    switches: tuple["Switch", ...] = ()  # said so that it can be refused with the reason (rules/bed.py)

    def and_below(self) -> Iterator["Switch"]:
        """This switch, and those that a faulty file has below it."""
        yield self
        for switch in self.switches:
            yield from switch.and_below()

    @property
    def num_ports(self) -> int:
        """Downstream ports, free ones too."""
        return len(self.devices) + self.free_ports


class Bridge(Part):
    """A CXL host bridge (pxb-cxl) whose buses start at `bus`; one root port per device, per switch, then the free ones."""

    name: Name
    bus: Annotated[_Positive, _schema(type="integer", minimum=1, maximum=255)]
    devices: tuple[Name, ...] = ()
    switches: tuple[Switch, ...] = ()
    free_ports: Free = 0

    @property
    def num_ports(self) -> int:
        """Root ports, free ones too."""
        return len(self.devices) + len(self.switches) + self.free_ports

    @property
    def num_buses(self) -> int:
        """Buses the firmware numbers from `bus` on: the bridge, one per port, and one more inside each switch."""
        return 1 + self.num_ports + sum(1 + switch.num_ports for switch in self.switches)

    @property
    def last_bus(self) -> int:
        """The highest bus number that this bridge needs."""
        return self.bus + self.num_buses - 1


class Window(Part):
    """A CXL fixed memory window: host physical addresses interleaved over bridges, in the order of `targets`."""

    name: Name
    targets: tuple[Name, ...]
    size_bytes: Size = Field(validation_alias=AliasChoices("size", "size_bytes"))
    granularity_bytes: Size = Field(default=256, validation_alias=AliasChoices("granularity", "granularity_bytes"))
    ways: Ways | None = None  # need not be said; if it is, it must equal the number of targets


class Region(Part):
    """Devices interleaved to one range of a window: whole ones, or `size` bytes over all of them together. Used as device DAX
    or onlined as system RAM; `pmem` takes persistent memory and makes a namespace of it that is device DAX too."""

    name: Name
    window: Name
    devices: tuple[Name, ...]  # in interleave order
    granularity_bytes: Size = Field(default=256, validation_alias=AliasChoices("granularity", "granularity_bytes"))
    ways: Ways | None = None  # need not be said; if it is, it must equal the number of devices
    size_bytes: Size | None = Field(default=None, validation_alias=AliasChoices("size", "size_bytes"))
    mode: Literal["devdax", "system-ram", "pmem"] = "devdax"

    @property
    def kind(self) -> "MemoryKind":
        """What it is made of, in the kernel's words."""
        return "pmem" if self.mode == "pmem" else "ram"


class Access(Part):
    """What the HMAT says of one memory as seen from the vCPUs."""

    read_latency_ns: Count
    write_latency_ns: Count
    read_bandwidth_mib_per_s: Count
    write_bandwidth_mib_per_s: Count


class NumaNode(Part):
    """A NUMA node without CPUs, beside the one with the vCPUs; `host_node` binds its memory on the machine below."""

    name: Name
    memory_bytes: Size = Field(validation_alias=AliasChoices("memory", "memory_bytes"))
    access: Access
    distance: Annotated[_Positive, _schema(type="integer", minimum=11, maximum=254)] = 20  # SLIT
    host_node: StrictInt | None = None


class Host(Part):
    """One emulated machine. Node 0 holds all vCPUs and `memory`; `numa_nodes` are nodes 1 and up."""

    name: Name
    vcpus: Count = 2
    memory_bytes: Size = Field(default=GIB, validation_alias=AliasChoices("memory", "memory_bytes"))
    local_access: Access | None = None  # node 0 in the HMAT; needed beside numa_nodes
    host_node: StrictInt | None = None
    numa_nodes: tuple[NumaNode, ...] = ()
    bridges: tuple[Bridge, ...] = ()
    windows: tuple[Window, ...] = ()
    regions: tuple[Region, ...] = ()
    qemu: tuple[StrictStr, ...] = ()  # further words of QEMU's command line, for what a bed file has no key for

    def attachments(self) -> Iterator["Attachment"]:
        """Every device of this host with the place where it sits, in the order of the file."""
        for bridge in self.bridges:
            for device in bridge.devices:
                yield Attachment(device, bridge, None)
            for switch in bridge.switches:
                for below in switch.and_below():
                    for device in below.devices:
                        yield Attachment(device, bridge, below)

    def numa_cells(self) -> tuple["NumaCell", ...]:
        """All nodes. A single one is said too: without an SRAT Linux puts CXL memory in node 0, not in its own."""
        cpus = f"0-{self.vcpus - 1}"
        first = NumaCell(0, cpus, self.vcpus, self.memory_bytes, LOCAL_DISTANCE, self.local_access, self.host_node)
        others = (
            NumaCell(number, "", 0, node.memory_bytes, node.distance, node.access, node.host_node)
            for number, node in enumerate(self.numa_nodes, start=1)
        )
        return (first, *others)

    def window(self, name: str) -> Window:
        """The window of that name; KeyError if there is none."""
        return _by_name(self.windows, name)

    def regions_by_address(self) -> tuple[Region, ...]:
        """Regions in the order in which they are made. Linux gives out the decoders of a port by rising address and the memory
        of a device volatile first: so windows in their order, and volatile before persistent in each."""
        rank = {window.name: number for number, window in enumerate(self.windows)}
        return tuple(
            sorted(self.regions, key=lambda region: (rank.get(region.window, len(rank)), region.kind == "pmem"))
        )

    @property
    def total_memory_bytes(self) -> int:
        """DRAM of all NUMA nodes; CXL devices not counted."""
        return self.memory_bytes + sum(node.memory_bytes for node in self.numa_nodes)


class PoolSpec(Part):
    """Devices that the runtime uses as one KV pool, on every host that holds them. writer, reader: hosts' parts in a run; by
    default the first and the last host that maps the pool."""

    name: Name
    devices: tuple[Name, ...]
    writer: Name | None = None
    reader: Name | None = None


class Topology(Part):
    """A whole bed. A value of this type that came from bedfile.load obeys every rule of rules.py."""

    name: Name
    description: StrictStr = ""
    devices: tuple[Device, ...] = ()
    hosts: tuple[Host, ...]
    pools: tuple[PoolSpec, ...] = ()

    def host(self, name: str) -> Host:
        """The host of that name; KeyError if there is none."""
        return _by_name(self.hosts, name)

    def device(self, name: str) -> Device:
        """The device of that name; KeyError if there is none."""
        return _by_name(self.devices, name)

    def devices_of(self, host: Host) -> tuple[Device, ...]:
        """The devices that a host holds, in the order in which they are attached."""
        return tuple(self.device(attachment.device) for attachment in host.attachments())

    def with_plugged(self, states: Mapping[str, bool]) -> "Topology":
        """The same bed after devices were plugged (True) or unplugged (False)."""
        devices = (d.model_copy(update={"plugged": states.get(d.name, d.plugged)}) for d in self.devices)
        return self.model_copy(update={"devices": tuple(devices)})

    def hosts_of(self, pool: PoolSpec) -> tuple[Host, ...]:
        """The hosts that map all of a pool's devices, in the order of the file."""
        return tuple(
            host
            for host in self.hosts
            if {name for region in host.regions for name in region.devices}.issuperset(pool.devices)
        )

    def region_size_bytes(self, region: Region) -> int:
        """Bytes of a region: what it says, or all that its devices have of its kind."""
        return region.size_bytes or sum(self.device(name).partition_bytes(region.kind) for name in region.devices)

    def memory_needed_bytes(self) -> int:
        """Memory of the machine below that the bed takes when all is touched; a shared device counts once, a sparse one not."""
        return sum(host.total_memory_bytes for host in self.hosts) + sum(d.backed_bytes for d in self.devices)


@dataclass(frozen=True)
class NumaCell:
    """One NUMA node of a host as QEMU numbers it. cpus: as 0-1, "" for a node without CPUs; distance: from node 0."""

    node: int
    cpus: str
    num_cpus: int
    memory_bytes: int
    distance: int
    access: Access | None
    host_node: int | None


@dataclass(frozen=True)
class Attachment:
    """Where a device sits in a host."""

    device: str
    bridge: Bridge
    switch: Switch | None


_Named = TypeVar("_Named", Host, Device, Window)


def _by_name(parts: tuple[_Named, ...], name: str) -> _Named:
    for part in parts:
        if part.name == name:
            return part
    raise KeyError(name)

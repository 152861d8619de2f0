"""What a guest shows of its CXL and NUMA memory. Parsers alone: text in, values out; knows no bed file and compares nothing.

Knows the JSON of `cxl list` and `daxctl list` (ndctl 81) and sysfs (Linux, Documentation/ABI/stable/sysfs-devices-node).
Memory devices are told apart by serial: memN, regionN and daxN.M are numbers of one boot.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from guest.agent.numa_nodes import parse_cpu_list


@dataclass(frozen=True)
class Memdev:
    """A CXL memory device. host_bridge: as pci0000:0c; switch: the kernel's port of the switch above it, None without one."""

    name: str
    serial: int
    size_bytes: int  # volatile
    persistent_size_bytes: int
    host_bridge: str
    switch: str | None


@dataclass(frozen=True)
class RootDecoder:
    """A window as the kernel shows it (decoder0.N). host_bridges: its targets, in the order of interleaving."""

    name: str
    size_bytes: int
    ways: int
    granularity_bytes: int
    host_bridges: tuple[str, ...]


@dataclass(frozen=True)
class CxlRegion:
    """A region and the DAX device on it. decoder: its root decoder; serials: its devices in the order of interleaving; mode:
    devdax, system-ram or, of persistent memory, pmem; num_offline_blocks: memory blocks of a system-ram region that the
    kernel does not use yet."""

    name: str
    decoder: str
    size_bytes: int
    ways: int
    granularity_bytes: int
    committed: bool
    serials: tuple[int, ...]
    dax: str | None
    mode: str | None
    target_node: int | None
    num_offline_blocks: int

    @property
    def dax_path(self) -> str:
        """The device file that maps the region; there is one only in mode devdax."""
        return f"/dev/{self.dax}"


@dataclass(frozen=True)
class SysfsNode:
    """A NUMA node as node 0's CPUs see it; the four figures are the HMAT's, None where it has none for this node."""

    node: int
    cpus: tuple[int, ...]
    memory_bytes: int
    distance: int
    read_latency_ns: int | None
    write_latency_ns: int | None
    read_bandwidth_mib_per_s: int | None
    write_bandwidth_mib_per_s: int | None


@dataclass(frozen=True)
class Inventory:
    """All that a guest shows."""

    memdevs: tuple[Memdev, ...]
    root_decoders: tuple[RootDecoder, ...]
    regions: tuple[CxlRegion, ...]
    numa_nodes: tuple[SysfsNode, ...]

    def region_of(self, serials: Sequence[int], number: int = 0) -> CxlRegion | None:
        """The region whose devices have these serials, in this order; of several, the one made after `number` others."""
        alike = [region for region in self.regions if region.serials == tuple(serials)]
        return alike[number] if number < len(alike) else None


def parse(text: str) -> Inventory:
    """The inventory in what `show` of guest/provision.sh prints: the sections `== cxl`, `== daxctl` and `== numa`."""
    sections = dict(part.split("\n", 1) for part in text.split("== ")[1:])
    memdevs, root_decoders, regions = parse_cxl(sections["cxl"], parse_daxctl(sections["daxctl"]))
    return Inventory(memdevs, root_decoders, regions, parse_numa(sections["numa"]))


def parse_daxctl(text: str) -> dict[str, dict[str, Any]]:
    """Device name -> its entry in the JSON of `daxctl list -D`; an empty output means no devices."""
    return {entry["chardev"]: entry for entry in json.loads(text or "[]")}


def parse_cxl(
    text: str, dax_devices: dict[str, dict[str, Any]]
) -> tuple[tuple[Memdev, ...], tuple[RootDecoder, ...], tuple[CxlRegion, ...]]:
    """Devices by serial, root decoders and regions by number, from the JSON of `cxl list -BMPDERTXi`."""
    memdevs: list[Memdev] = []
    root_decoders: list[RootDecoder] = []
    regions: list[CxlRegion] = []
    for bus in json.loads(text or "[]"):
        for bridge in bus.get(f"ports:{bus['bus']}", []):
            memdevs += _memdevs_below(bridge, bridge["host"], None)
        for decoder in bus.get(f"decoders:{bus['bus']}", []):
            root_decoders.append(_root_decoder(decoder))
            serial_of = {memdev.name: memdev.serial for memdev in memdevs}
            for region in decoder.get(f"regions:{decoder['decoder']}", []):
                regions.append(_region(region, decoder["decoder"], serial_of, dax_devices))
    return (
        tuple(sorted(memdevs, key=lambda memdev: memdev.serial)),
        tuple(sorted(root_decoders, key=lambda decoder: _number(decoder.name))),
        tuple(sorted(regions, key=lambda region: _number(region.name))),
    )


def parse_numa(text: str) -> tuple[SysfsNode, ...]:
    """Nodes by number, from `path:value` lines of sysfs and the paths of the nodes' memory blocks."""
    values = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    block_bytes = int(values["memory/block_size_bytes"], 16)
    block_paths = [line for line in text.splitlines() if ":" not in line]
    folders = [path.removesuffix("/distance") for path in values if path.endswith("/distance")]
    return tuple(
        sorted((_numa_node(folder, values, block_paths, block_bytes) for folder in folders), key=lambda node: node.node)
    )


def _memdevs_below(port: dict[str, Any], host_bridge: str, switch: str | None) -> Iterator[Memdev]:
    """Endpoints of this port, and of the switches below it."""
    for endpoint in port.get(f"endpoints:{port['port']}", []):
        memdev = endpoint["memdev"]
        sizes = (memdev.get("ram_size", 0), memdev.get("pmem_size", 0))
        yield Memdev(memdev["memdev"], memdev["serial"], *sizes, host_bridge, switch)
    for below in port.get(f"ports:{port['port']}", []):
        yield from _memdevs_below(below, host_bridge, below["port"])


def _root_decoder(decoder: dict[str, Any]) -> RootDecoder:
    targets = sorted(decoder.get("targets", []), key=lambda target: target["position"])
    return RootDecoder(
        name=decoder["decoder"],
        size_bytes=decoder["size"],
        ways=decoder["interleave_ways"],
        granularity_bytes=decoder.get("interleave_granularity", 0),
        host_bridges=tuple(target["target"] for target in targets),
    )


def _region(
    region: dict[str, Any], decoder: str, serial_of: dict[str, int], dax_devices: dict[str, dict[str, Any]]
) -> CxlRegion:
    mappings = sorted(region.get("mappings", []), key=lambda mapping: mapping["position"])
    dax = _dax_of(region, dax_devices)
    return CxlRegion(
        name=region["region"],
        decoder=decoder,
        size_bytes=region["size"],
        ways=region["interleave_ways"],
        granularity_bytes=region["interleave_granularity"],
        committed=region["decode_state"] == "commit",
        serials=tuple(serial_of[mapping["memdev"]] for mapping in mappings),
        dax=dax.get("chardev"),
        mode="pmem" if region.get("type") == "pmem" else dax.get("mode"),
        target_node=dax.get("target_node"),
        num_offline_blocks=dax.get("total_memblocks", 0) - dax.get("online_memblocks", 0),
    )


def _dax_of(region: dict[str, Any], dax_devices: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The DAX device on a region; daxctl says what mode it is in now. A volatile region names its own, that of a namespace on
    a persistent one has the region's number."""
    own = [device["chardev"] for device in region.get("daxregion", {}).get("devices", [])]
    if region.get("type") == "pmem":
        own = [name for name in dax_devices if name.startswith(f"dax{_number(region['region'])}.")]
    return dax_devices.get(own[0], {}) if own else {}


def _numa_node(folder: str, values: dict[str, str], block_paths: list[str], block_bytes: int) -> SysfsNode:
    def access(figure: str) -> int | None:
        value = values.get(f"{folder}/access0/initiators/{figure}")
        return None if value is None else int(value)

    return SysfsNode(
        node=_number(folder),
        cpus=parse_cpu_list(values.get(f"{folder}/cpulist", "")),
        memory_bytes=block_bytes * sum(path.startswith(f"{folder}/") for path in block_paths),
        distance=int(values[f"{folder}/distance"].split()[0]),
        read_latency_ns=access("read_latency"),
        write_latency_ns=access("write_latency"),
        read_bandwidth_mib_per_s=access("read_bandwidth"),
        write_bandwidth_mib_per_s=access("write_bandwidth"),
    )


def _number(name: str) -> int:
    """The number that a kernel name ends with: 3 for node3, 10 for decoder0.10."""
    return int(name[len(name.rstrip("0123456789")) :])


def serials_in_words(serials: Iterable[int]) -> str:
    """Serials as the kernel writes them, for a message."""
    return ", ".join(f"{serial:#x}" for serial in serials) or "none"

"""Which memories of a bed take part in a job, who writes to each and who reads from it. Knows bed files; the hosts' names for
their memories come from the bed's record.

Roles follow from the pools, whatever else the bed holds: each region of a pool is written by the first host that maps it and
read by the last, unless the pool names them. Without a pool, all memory of the first host that has some is used by that host.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from emulation.conformance.exchange import SharedMemory
from emulation.errors import InputError
from emulation.machines.bed import Bed
from qemu_configs.topology import MIB, Host, PoolSpec, Region, Topology

NAMESPACE_BYTES = 2 * MIB  # what a namespace on persistent memory takes of its region, for its own record


@dataclass(frozen=True)
class Place:
    """A memory that takes part: a region or NUMA node, by its names on the host that writes and on the one that reads.
    devices: of the bed file, none for a NUMA node; size_bytes: what a program can map of it."""

    writer: str
    writer_name: str
    reader: str
    reader_name: str
    devices: tuple[str, ...]
    size_bytes: int


def places_of(topology: Topology) -> list[Place]:
    """The memories that take part, in order. Raises InputError for a bed that has none."""
    found = [place for pool in topology.pools for place in _of_pool(topology, pool)]
    if not topology.pools:
        found = next((places for host in topology.hosts if (places := list(_of_host(topology, host)))), [])
    if not found:
        raise InputError(
            f"bed '{topology.name}': has no memory that a runtime can map ({_missing(topology)}; ordinary memory of a device "
            "needs a region over it, mode: devdax)"
        )
    return found


def places(bed: Bed) -> list[SharedMemory]:
    """The same of a bed that is up, as its hosts map them. Raises InputError as `places_of` does."""
    stores = {host.name: host.stores for host in bed.record.hosts}
    return [
        SharedMemory(
            place.writer_name,
            place.writer,
            stores[place.writer][place.writer_name],
            place.reader,
            stores[place.reader][place.reader_name],
            place.devices,
        )
        for place in places_of(bed.topology)
    ]


def _of_pool(topology: Topology, pool: PoolSpec) -> Iterator[Place]:
    """One per region of the pool. Hosts call a region as they like: it is told by its devices, and by its turn among those
    over the same ones."""
    holders: dict[tuple[object, ...], list[tuple[Host, Region]]] = {}
    for host in topology.hosts:
        alike: Counter[tuple[str, ...]] = Counter()
        for region in host.regions_by_address():
            if set(region.devices) <= set(pool.devices):
                holders.setdefault((region.devices, alike[region.devices]), []).append((host, region))
                alike[region.devices] += 1
    for found in holders.values():
        by_name = {host.name: (host, region) for host, region in found}
        writer, written = by_name.get(pool.writer or "", found[0])
        reader, read = by_name.get(pool.reader or "", found[-1])
        size_bytes = _mappable_bytes(topology, written)
        yield Place(writer.name, written.name, reader.name, read.name, written.devices, size_bytes)


def _of_host(topology: Topology, host: Host) -> Iterator[Place]:
    for node in host.numa_nodes:
        yield Place(host.name, node.name, host.name, node.name, (), node.memory_bytes)
    for region in host.regions_by_address():
        if all(topology.device(name).plugged for name in region.devices):
            size_bytes = _mappable_bytes(topology, region)
            yield Place(host.name, region.name, host.name, region.name, region.devices, size_bytes)


def _mappable_bytes(topology: Topology, region: Region) -> int:
    return topology.region_size_bytes(region) - (NAMESPACE_BYTES if region.mode == "pmem" else 0)


def _missing(topology: Topology) -> str:
    if any(device.dc_size_bytes for device in topology.devices):
        return "neither region nor NUMA node; no stock kernel brings dynamic capacity online"
    return "neither region nor NUMA node"

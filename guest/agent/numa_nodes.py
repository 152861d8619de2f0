"""The NUMA nodes of a machine as sysfs shows them: CPUs, memory, distances, HMAT. Knows sysfs's files, binds nothing.

The root folder is a parameter, so that a tree recorded elsewhere reads the same.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from guest.agent.errors import HostError, RequestError

SYSFS_NODES = Path("/sys/devices/system/node")


@dataclass(frozen=True)
class Access:
    """What the HMAT says of a node's memory as seen from its best initiator; None where it is silent."""

    read_latency_ns: int | None
    write_latency_ns: int | None
    read_bandwidth_mib_per_s: int | None
    write_bandwidth_mib_per_s: int | None


@dataclass(frozen=True)
class Node:
    """One NUMA node. distances: from this node, by node number (10 is local); access: None without an HMAT entry."""

    number: int
    cpus: tuple[int, ...]
    memory_bytes: int
    free_bytes: int
    distances: dict[int, int]
    access: Access | None


@dataclass(frozen=True)
class Pair:
    """The node whose CPUs read, and the node whose memory is read."""

    local: Node
    remote: Node

    @property
    def distance(self) -> int:
        return self.local.distances[self.remote.number]


def num_nodes(root: Path = SYSFS_NODES) -> int:
    """How many nodes there are; 1 where the kernel knows nothing of them."""
    return max(1, len(list(root.glob("node[0-9]*"))))


def find_nodes(root: Path = SYSFS_NODES) -> list[Node]:
    """All online nodes, by number. Raises HostError where the kernel shows none."""
    folders = {int(path.name[4:]): path for path in root.glob("node[0-9]*")}
    if not folders:
        raise HostError(f"NUMA nodes: {root} shows no node; this needs a Linux kernel with NUMA (CONFIG_NUMA)")
    numbers = sorted(folders)
    return [_node(number, folders[number], numbers) for number in numbers]


def choose_pair(nodes: list[Node], local: int | None = None, remote: int | None = None) -> Pair:
    """The nodes to measure between: those named, else the first with CPUs and the memory farthest from it.

    Raises HostError where there is one node (or none with CPUs, or none with memory beside it), RequestError where a
    named node does not fit."""
    if len(nodes) < 2:
        raise HostError(
            f"machine: has one NUMA node ({_in_words(nodes[0])}), so it has no remote memory to measure; "
            "take a two-socket host, or for the plumbing a guest of the stock topology remote-numa"
        )
    with_cpus = [node for node in nodes if node.cpus]
    reader = _choose("local", local, with_cpus, "has no CPUs", with_cpus[:1])
    others = [node for node in nodes if node.memory_bytes and node is not reader]
    farthest = sorted(others, key=lambda node: (-reader.distances[node.number], node.number))
    return Pair(reader, _choose("remote", remote, others, "has no memory or is the local node", farthest[:1]))


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """CPU numbers of the kernel's list form: `0-2,8` -> (0, 1, 2, 8)."""
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return tuple(cpus)


def _node(number: int, folder: Path, numbers: list[int]) -> Node:
    meminfo = dict(re.findall(r"(\w+):\s+(\d+) kB", (folder / "meminfo").read_text()))
    distances = map(int, (folder / "distance").read_text().split())
    return Node(
        number=number,
        cpus=parse_cpu_list((folder / "cpulist").read_text()),
        memory_bytes=1024 * int(meminfo["MemTotal"]),
        free_bytes=1024 * int(meminfo["MemFree"]),
        distances=dict(zip(numbers, distances, strict=True)),
        access=_access(folder / "access0" / "initiators"),
    )


def _access(folder: Path) -> Access | None:
    names = ("read_latency", "write_latency", "read_bandwidth", "write_bandwidth")
    values = [int(path.read_text()) if (path := folder / name).exists() else None for name in names]
    return Access(*values) if any(values) else None


def _choose(role: str, number: int | None, fitting: list[Node], misfit: str, default: list[Node]) -> Node:
    chosen = default if number is None else [node for node in fitting if node.number == number]
    if chosen:
        return chosen[0]
    if number is None:
        raise HostError(f"NUMA nodes: none can be the {role} one: each {misfit}")
    known = ", ".join(str(node.number) for node in fitting) or "none"
    raise RequestError(f"NUMA nodes: {role}={number} {misfit}, or there is no such node (fitting: {known})")


def _in_words(node: Node) -> str:
    return f"node {node.number}: {len(node.cpus)} CPUs, {node.memory_bytes / (1 << 30):.1f} GiB"

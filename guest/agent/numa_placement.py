"""Puts a pool on one NUMA node and its reader's threads on another, and proves that both are there.

Knows what the scheduler and the kernel tell about placement; no time and no profile. The memory is asked about in two ways:
by move_pages, page by page, and by the mapping's line in numa_maps.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guest.agent.errors import HostError, PlacementError
from guest.agent.numa_nodes import Node, Pair
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import PAGE_BYTES, KvLayout

LINE = KvLayout("line", 64, 64, latent=0, rope=0)  # a store of single cache lines
NUMA_MAPS = Path("/proc/self/numa_maps")
_TOUCH_BYTES = 1 << 20


@dataclass(frozen=True)
class Proof:
    """Where a pool's pages and its reader's threads were seen. Page counts are of 4 KiB pages."""

    policy: str  # the mapping's in numa_maps: bind:1
    pages_moved: dict[int, int]  # node -> pages, asked of move_pages one by one
    pages_mapped: dict[int, int]  # node -> pages, as the mapping's numa_maps line counts them
    reader_cpus: tuple[int, ...]  # that the calling thread may run on

    def problems(self, pair: Pair, num_pages: int) -> list[str]:
        """What speaks against the placement; [] if all pages are remote and all CPUs local."""
        expected = {pair.remote.number: num_pages}
        problems = []
        if self.policy != f"bind:{pair.remote.number}":
            problems.append(f"placement: policy={self.policy} is not bind:{pair.remote.number}")
        for source, pages in (("move_pages", self.pages_moved), ("numa_maps", self.pages_mapped)):
            if pages != expected:
                problems.append(f"placement: {source} sees pages {_by_node(pages)}, not {_by_node(expected)}")
        if strays := sorted(set(self.reader_cpus) - set(pair.local.cpus)):
            problems.append(f"placement: the reader may run on CPUs {strays}, which are not node {pair.local.number}'s")
        return problems


@contextmanager
def threads_on(node: Node) -> Iterator[tuple[int, ...]]:
    """Keep the calling thread, and those that it starts, on a node's CPUs; gives the CPUs that it got.

    Raises HostError where this process may use none of them."""
    before = os.sched_getaffinity(0)
    usable = before & set(node.cpus)
    if not usable:
        raise HostError(f"threads: this process may use CPUs {sorted(before)}, none of node {node.number}'s")
    os.sched_setaffinity(0, usable)
    try:
        yield tuple(sorted(usable))
    finally:
        os.sched_setaffinity(0, before)


def store_on(node: Node, size_bytes: int) -> MappedStore:
    """Memory bound to a node, each page touched, so that it lies somewhere. Raises HostError without room for it."""
    if size_bytes > node.free_bytes:
        raise HostError(
            f"pool: size_bytes={size_bytes} does not fit node {node.number}, which has {node.free_bytes} bytes free;"
            " ask for less"
        )
    store = MappedStore.numa(node.number, LINE, num_rows=size_bytes // LINE.stride_bytes)
    zeros = np.zeros(_TOUCH_BYTES, np.uint8)
    for offset in range(0, store.size_bytes, _TOUCH_BYTES):
        store.write_bytes(offset, zeros[: store.size_bytes - offset])
    return store


def prove(store: MappedStore, numa_maps: Path = NUMA_MAPS) -> Proof:
    """Ask move_pages and numa_maps where a store's pages lie, and the scheduler where the calling thread may run."""
    policy, pages = parse_numa_maps(numa_maps.read_text(), store.address)
    num_pages = store.size_bytes // PAGE_BYTES
    return Proof(policy, store.pages_by_node(samples=num_pages), pages, tuple(sorted(os.sched_getaffinity(0))))


def require_placed(proof: Proof, pair: Pair, num_pages: int) -> None:
    """Raises PlacementError with all that speaks against the placement."""
    if problems := proof.problems(pair, num_pages):
        raise PlacementError("\n".join(problems))


def parse_numa_maps(text: str, address: int) -> tuple[str, dict[int, int]]:
    """Policy and 4 KiB pages by node of the mapping that starts at `address`. Raises PlacementError if no line does."""
    for line in text.splitlines():
        start, policy, *_ = line.split()
        if int(start, 16) == address:
            page_kib = re.search(r" kernelpagesize_kB=(\d+)", line)  # absent where no page was ever touched
            small_pages = int(page_kib[1]) // 4 if page_kib else 0
            return policy, {int(node): int(count) * small_pages for node, count in re.findall(r" N(\d+)=(\d+)", line)}
    raise PlacementError(
        f"placement: numa_maps has no mapping at {address:#x}; it may have been merged with a neighbour"
    )


def _by_node(pages: dict[int, int]) -> str:
    return ", ".join(f"{count} on node {node}" for node, count in sorted(pages.items())) or "on no node"

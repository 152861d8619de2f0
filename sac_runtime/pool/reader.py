"""`PoolReader`: a look into a pool without being one of its hosts. Knows journals and rows; writes nothing, so nobody waits for it.

It cannot announce a lease. What it reads may be retired and written anew meanwhile; so it looks at the journals again after the
read: an owner writes a block anew only when its tombstone is in memory, and then this look finds it.

    with PoolReader.open(store, wait_s=30) as pool, pool.reading(hashes) as blocks:
        store.read_rows(pool.row_table(blocks).rows(layer, tokens), out)
    # only here is `out` what was published
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from sac_runtime.errors import BlockStateError
from sac_runtime.memory.store import KvStore
from sac_runtime.pool import arguments
from sac_runtime.pool import format as pool_format
from sac_runtime.pool.block_hash import BlockHashes
from sac_runtime.pool.block_rows import BlockRows
from sac_runtime.pool.directory import ABSENT, Directory
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.hosts import Hosts
from sac_runtime.rows.layout import ByteArray, IntArray
from sac_runtime.rows.placement import RowTable

NO_HOST = -1


@dataclass(frozen=True)
class PoolReader:
    """Reads a pool under no host number. Made by open(). For one thread."""

    store: KvStore
    geometry: PoolGeometry
    directory: Directory
    hosts: Hosts
    block_rows: BlockRows

    @classmethod
    def open(
        cls,
        store: KvStore,
        *,
        expected: PoolGeometry | None = None,
        wait_s: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Self:
        """Read the pool in `store`. expected, wait_s: as Pool.open. Raises PoolFormatError, GeometryError."""
        geometry, pool_id = pool_format.find_pool(store, expected, wait_s, sleep)
        directory = Directory(store, geometry, pool_id, NO_HOST)
        hosts = Hosts(store, geometry, pool_id, 0)  # looks alone: it never joins, so which host it is does not matter
        return cls(store, geometry, directory, hosts, BlockRows(geometry, store.rows_offset))

    def lookup(self, hashes: BlockHashes) -> IntArray:
        """Block of each hash, or -1, by the journals as they are now. hashes: (n, 2) uint64. Returns (n,) int64. A hint: to read,
        use reading()."""
        self._catch_up()
        return self.directory.find(hashes)

    @contextmanager
    def reading(self, hashes: BlockHashes) -> Iterator[IntArray]:
        """Blocks of the longest published prefix of a chain, to be read in the body. Raises BlockStateError at the end of the body
        if any of them was retired meanwhile: then what was read may be another's."""
        places = self.lookup(hashes)
        blocks = places[: int(np.argmax(np.append(places, ABSENT) == ABSENT))]
        publications = self.directory.publications[blocks].copy()
        for offset, size_bytes in self.block_rows.byte_ranges(np.unique(blocks)):
            self.store.invalidate(offset, size_bytes)
        self.store.fence()
        yield blocks
        self.store.fence()
        self._catch_up()
        changed = blocks[self.directory.publications[blocks] != publications]
        if len(changed):
            raise BlockStateError(
                f"pool reader: block {changed[0]} was retired while it was read, so what was read may be another's (read it again)"
            )

    def num_tokens(self, blocks: IntArray) -> IntArray:
        """Valid tokens of each published block, (n,) int64. Raises GeometryError."""
        numbers = np.asarray(blocks)
        arguments.require_blocks_of_pool(self.geometry, numbers)
        return self.directory.num_tokens[numbers].astype(np.int64)

    def row_table(self, blocks: IntArray) -> RowTable:
        """As Pool.row_table."""
        return self.block_rows.row_table(blocks)

    def read_index_keys(self, blocks: IntArray, layer: int) -> ByteArray:
        """As Pool.read_index_keys; within reading()."""
        return self.block_rows.read_index_keys(self.store, blocks, layer)

    def close(self) -> None:
        """Nothing is to be given back; the store stays open."""

    def _catch_up(self) -> None:
        """Follow the journals; what entries beyond their heads may have withdrawn is not found, as memory may have lost a head."""
        self.directory.catch_up(self.hosts.look)
        self.directory.distrust_unannounced(range(self.geometry.num_hosts))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""Where the parts of a pool's blocks lie: rows for the store, byte ranges for flushes. Knows geometry, not what blocks hold.

Layer-first within a block: layer 0 of all its tokens, then their indexer keys, then layer 1. A block is one byte range, so one
flush or invalidation covers it, and a layer of it is one range as well, which a layer-wise prefill writes in one go."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sac_runtime.errors import GeometryError
from sac_runtime.memory.store import KvStore
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.rows.doors import require_array, require_integers
from sac_runtime.rows.layout import ByteArray, IntArray
from sac_runtime.rows.placement import RowTable, require_layer


@dataclass(frozen=True)
class BlockRows:
    """Rows and byte ranges of blocks of one pool. rows_offset: byte offset of row 0 in the store."""

    geometry: PoolGeometry
    rows_offset: int

    @property
    def block_key_bytes(self) -> int:
        """Indexer keys of one layer of one block."""
        return self.geometry.block_tokens * self.geometry.index_key_bytes

    def row_table(self, blocks: IntArray) -> RowTable:
        """Rows of the sequence that `blocks` make up. blocks: (n,) int64."""
        numbers = np.asarray(blocks)
        require_integers("pool", "blocks", numbers)
        first = numbers.astype(np.int64)[:, np.newaxis] * self.geometry.block_rows
        first_layer = (first + np.arange(self.geometry.block_tokens)).reshape(-1)
        return RowTable(first_layer, self.geometry.layer_rows, self.geometry.num_layers)

    def index_key_rows(self, blocks: IntArray, layer: int) -> IntArray:
        """Rows that the indexer keys of one layer take up, index_key_rows per block. Raises GeometryError, RowRangeError."""
        geometry = self.geometry
        require_layer(layer, geometry.num_layers)
        if not geometry.index_key_bytes:
            raise GeometryError("pool: index_key_bytes=0, so it holds no indexer keys (create it with index_key_bytes)")
        numbers = np.asarray(blocks)
        require_integers("pool", "blocks", numbers)
        first = numbers.astype(np.int64)[:, np.newaxis] * geometry.block_rows + layer * geometry.layer_rows
        return (first + geometry.block_tokens + np.arange(geometry.index_key_rows)).reshape(-1)

    def pack_index_keys(self, keys: ByteArray, num_blocks: int) -> ByteArray:
        """Keys as they lie in rows. keys: (n * block_tokens, index_key_bytes) uint8. Returns (n * index_key_rows, row_bytes)
        uint8. Raises GeometryError."""
        shape = (num_blocks * self.geometry.block_tokens, self.geometry.index_key_bytes)
        require_array("pool", "keys", keys, np.uint8, shape)
        by_block = np.zeros((num_blocks, self.geometry.index_key_rows * self.geometry.layout.row_bytes), np.uint8)
        by_block[:, : self.block_key_bytes] = keys.reshape(num_blocks, self.block_key_bytes)
        return by_block.reshape(-1, self.geometry.layout.row_bytes)

    def unpack_index_keys(self, packed: ByteArray, num_blocks: int) -> ByteArray:
        """The reverse of pack_index_keys."""
        keys = packed.reshape(num_blocks, self.geometry.index_key_rows * self.geometry.layout.row_bytes)
        keys = keys[:, : self.block_key_bytes]
        return keys.reshape(-1, self.geometry.index_key_bytes)

    def read_index_keys(self, store: KvStore, blocks: IntArray, layer: int) -> ByteArray:
        """Indexer keys of one layer, from `store`. Returns (n * block_tokens, index_key_bytes) uint8."""
        rows = self.index_key_rows(blocks, layer)
        packed = np.empty((len(rows), self.geometry.layout.row_bytes), np.uint8)
        store.read_rows(rows, packed)
        return self.unpack_index_keys(packed, len(blocks))

    def byte_ranges(self, blocks: IntArray) -> Iterator[tuple[int, int]]:
        """Where blocks lie in the store, neighbours joined. blocks: distinct. Yields (offset, size_bytes)."""
        ordered = np.sort(blocks)
        for run in np.split(ordered, np.flatnonzero(np.diff(ordered) != 1) + 1):
            if len(run):
                yield self.rows_offset + int(run[0]) * self.geometry.block_bytes, len(run) * self.geometry.block_bytes

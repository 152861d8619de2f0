"""A sequence in a pool: the blocks of its tokens, from the prefix that somebody published to the block being written.

Knows tokens, blocks and their publication; knows no models, hot buffers or attention.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sac_runtime.memory.backing import Backing
from sac_runtime.pool.block_hash import chain_hashes
from sac_runtime.pool.directory import ABSENT
from sac_runtime.pool.lease import Lease
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.doors import require_array, require_integers, require_whole
from sac_runtime.rows.layout import ByteArray, IntArray
from sac_runtime.rows.placement import LayerRows

IndexKeys = Callable[[int, int, int], ByteArray]
"""(layer, first token, end token) -> the indexer keys of those tokens, (end - first, index_key_bytes) uint8."""


class PoolSequence:
    """Tokens of one request and where their rows lie. A placement for the fetch path, see `home`.

    lease: under which a published prefix is read, must outlive the sequence. root: keeps models apart, see chain_hashes."""

    def __init__(self, pool: Pool, lease: Lease, root: bytes = b"") -> None:
        self.pool = pool
        self.num_reused = 0
        self._lease = lease
        self._root = root
        self._block_tokens = pool.geometry.block_tokens
        self._tokens = np.empty(0, np.int64)
        self._blocks = np.empty(0, np.int64)
        self._num_sealed = 0  # leading blocks that never change any more
        self._unfound: list[int] = []  # blocks of this host that were not published, a twin being there already
        self._table = pool.row_table(self._blocks)

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def home(self) -> "PoolBacking":
        """What the fetch path reads from and writes to."""
        return PoolBacking(self.pool.store, self, self)

    def adopt_prefix(self, tokens: IntArray) -> int:
        """Begin with the longest published prefix of `tokens`, whole blocks that leave at least one token to compute.
        Returns its number of tokens."""
        require_integers("pool sequence", "tokens", tokens)
        hashes = chain_hashes(tokens[:-1], self._block_tokens, self._root)
        self._add_blocks(self._lease.prefix(hashes))
        self._num_sealed = len(self._blocks)
        self.num_reused = self._num_sealed * self._block_tokens
        self._tokens = tokens[: self.num_reused].copy()
        return self.num_reused

    def extend(self, tokens: IntArray) -> None:
        """Append tokens, whose rows are to be written next. Raises PoolFullError (then nothing is appended)."""
        require_integers("pool sequence", "tokens", tokens)
        num_tokens = len(self) + len(tokens)
        missing = -(-num_tokens // self._block_tokens) - len(self._blocks)
        if missing > 0:
            self._add_blocks(self.pool.allocate(missing))
        self._tokens = np.concatenate([self._tokens, tokens])

    def layer(self, layer: int) -> LayerRows:
        """Where the tokens of `layer` lie, with room to the end of the last block."""
        return self._table.layer(layer)

    def write(self, layer: int, first_token: int, values: ByteArray) -> int:
        """Write rows of consecutive tokens, those in sealed blocks left out. values: (n, row_bytes) uint8. Returns ns."""
        require_whole("pool sequence", "first_token", first_token)
        require_array("pool sequence", "values", values, np.uint8, ("n", self.pool.geometry.layout.row_bytes))
        sealed_tokens = self._num_sealed * self._block_tokens
        unsealed = values[max(0, sealed_tokens - first_token) :]
        if not len(unsealed):
            return 0
        unsealed_blocks = self._blocks[self._num_sealed :]
        return self.pool.write(unsealed_blocks, layer, unsealed, max(0, first_token - sealed_tokens))

    def write_token(self, token: int, values: ByteArray) -> int:
        """Write the rows that a token outside the sealed blocks has in all layers. values: (L, row_bytes) uint8. Returns ns."""
        require_whole("pool sequence", "token", token, 0, len(self._blocks) * self._block_tokens - 1)
        block, within = divmod(token, self._block_tokens)
        return self.pool.write_token(int(self._blocks[block]), within, values)

    def read(self, layer: int, num_tokens: int) -> ByteArray:
        """Rows of the first `num_tokens` tokens, (num_tokens, row_bytes) uint8."""
        out = np.empty((num_tokens, self.pool.geometry.layout.row_bytes), np.uint8)
        self.pool.store.read_rows(self.layer(layer).rows(np.arange(num_tokens)), out)
        return out

    def read_index_keys(self, layer: int) -> ByteArray:
        """Indexer keys of the adopted prefix. Returns (num_reused, index_key_bytes) uint8."""
        adopted = self._blocks[: self.num_reused // self._block_tokens]
        return self.pool.read_index_keys(adopted, layer)

    def publish_full(self, index_keys: IndexKeys) -> None:
        """Publish the blocks that have become full, with their indexer keys where the pool holds any; one that has been published
        by another meanwhile stays private. All their rows must have been written."""
        num_full = len(self) // self._block_tokens
        fresh = self._blocks[self._num_sealed : num_full]
        if not len(fresh):
            return
        first, end = self._num_sealed * self._block_tokens, num_full * self._block_tokens
        hashes = chain_hashes(self._tokens[:end], self._block_tokens, self._root)[self._num_sealed :]
        twin = self.pool.lookup(hashes) != ABSENT
        if self.pool.geometry.index_key_bytes:  # else they stay with the host that made them
            for layer in range(self.pool.geometry.num_layers):
                self.pool.write_index_keys(fresh, layer, index_keys(layer, first, end))
        self.pool.publish(fresh[~twin], hashes[~twin])
        self._unfound += fresh[twin].tolist()
        self._num_sealed = num_full

    def release(self) -> None:
        """Give back the blocks that nobody else can find."""
        self.pool.free(np.concatenate([np.array(self._unfound, np.int64), self._blocks[self._num_sealed :]]))
        self._unfound.clear()
        self._blocks = self._blocks[: self._num_sealed]

    def _add_blocks(self, blocks: IntArray) -> None:
        self._blocks = np.concatenate([self._blocks, blocks])
        self._table = self.pool.row_table(self._blocks)


@dataclass(frozen=True)
class PoolBacking(Backing):
    """A request's home in a pool: reads go to the store at once, writes through the pool, which refuses what is not
    this host's to write."""

    sequence: PoolSequence

    def write(self, layer: int, tokens: IntArray, values: ByteArray) -> int:
        """tokens must be consecutive."""
        return self.sequence.write(layer, int(tokens[0]), values)

    def write_token(self, token: int, values: ByteArray) -> int:
        return self.sequence.write_token(token, values)

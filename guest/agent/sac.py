"""The reference runtime behind the contract of `guest.agent.runtime`: a pool of two hosts, the sparse fetch path, guard rows.

numpy and sac_runtime alone, and no clock: what it does on an emulated device takes a time that means nothing.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from guest.agent.guards import layers_with_wrong_canary, write_canaries
from guest.agent.runtime import LayerInput, LayerOutput
from guest.agent.stores import open_store
from guest.agent.task import Task
from sac_runtime.errors import StoreError
from sac_runtime.fetch.request import FetchConfig, RequestKv
from sac_runtime.fetch.step import LayerQuery, step
from sac_runtime.memory.backing import Backing
from sac_runtime.memory.spec import StoreSpec
from sac_runtime.memory.store import KvStore
from sac_runtime.pool.block_hash import BlockHashes, chain_hashes
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import ByteArray, IntArray
from sac_runtime.rows.placement import RowTable

BLOCK_TOKENS = 64
CANARY_TOKENS = np.full(BLOCK_TOKENS, -1)  # no model's tokens: the block that holds them carries each layer's canary
WRITER, READER, NUM_HOSTS = 0, 1, 2  # host numbers in the pool; on one host two processes have them


def open_runtime(task: Task) -> "SacRuntime":
    """Map the memory that `task.store` names. Raises StoreNameError, StoreError, GeometryError."""
    geometry = geometry_of(task)
    spec = StoreSpec.parse(task.store)
    return SacRuntime(task, open_store(spec, task.kv_layout, geometry.num_rows, geometry.metadata_bytes))


def geometry_of(task: Task) -> PoolGeometry:
    """The pool of one context. Arenas are equal, so the reader's is as large as the writer's: the context and the canary."""
    return PoolGeometry(
        task.kv_layout, NUM_HOSTS, task.num_layers, BLOCK_TOKENS, max(_num_blocks(task), _num_tail_blocks(task)) + 1
    )


class SacRuntime:
    """One host's part in a pool of one context. store: the memory, closed with this."""

    def __init__(self, task: Task, store: KvStore) -> None:
        self.task = task
        self.store = store

    def populate(self, tokens: IntArray, layers: Iterable[ByteArray]) -> None:
        """Write a context layer by layer as it comes, then publish its blocks. Makes the pool anew."""
        task = self.task
        num_blocks = _num_blocks(task)
        with self._new_pool() as pool:
            blocks = pool.allocate(num_blocks)
            for layer, rows in enumerate(layers):
                pool.write(blocks, layer, rows)
            in_last = task.context_tokens - (num_blocks - 1) * BLOCK_TOKENS
            pool.publish(blocks, _names(tokens), np.r_[np.full(num_blocks - 1, BLOCK_TOKENS), in_last])

    def fetch(self, tokens: IntArray) -> "SacDecoding":
        """Find a context by its tokens. Raises StoreError where the pool does not hold all of it."""
        return SacDecoding(self.task, self.store, tokens)

    def flip_bit(self, tokens: IntArray, layer: int, token: int, byte: int) -> None:
        """Flip a bit of a published row behind the pool's back."""
        with Pool.open(self.store, host=WRITER) as pool, pool.lease() as lease:
            rows = _prefix_table(self.task, pool, lease.prefix(_names(tokens))).rows(layer, np.array([token]))
        row = np.empty((1, self.task.kv_layout.row_bytes), np.uint8)
        self.store.read_rows(rows, row)
        row[0, byte] ^= 1
        self.store.write_rows(rows, row)
        _to_memory(self.store, rows)

    def close(self) -> None:
        self.store.close()

    def _new_pool(self) -> Pool:
        """A new pool in the store, whatever it held before, with its canaries."""
        geometry = geometry_of(self.task)
        pool = Pool.create(
            self.store,
            host=WRITER,
            num_hosts=geometry.num_hosts,
            num_layers=geometry.num_layers,
            block_tokens=geometry.block_tokens,
            blocks_per_host=geometry.blocks_per_host,
            replace=True,
        )
        block = pool.allocate(1)
        write_canaries(self.store, pool.row_table(block), 0, self.task.num_layers)
        pool.publish(block, _names(CANARY_TOKENS))
        return pool


class SacDecoding:
    """One context decoded by the sparse fetch path, over the writer's rows and a tail of this host's own."""

    def __init__(self, task: Task, store: KvStore, tokens: IntArray) -> None:
        self.task = task
        self.store = store
        with ExitStack() as resources:
            pool = resources.enter_context(Pool.open(store, host=READER, expected=geometry_of(task)))
            lease = resources.enter_context(pool.lease())
            self._wrong_canaries = _wrong_canaries(task, store, pool, lease.prefix(_names(CANARY_TOKENS)))
            prefix = _prefix_table(task, pool, lease.prefix(_names(tokens)))
            tail = pool.row_table(pool.allocate(_num_tail_blocks(task)))
            self.table = replace(prefix, first_layer=np.concatenate([prefix.first_layer, tail.first_layer]))
            config = FetchConfig(task.num_layers, task.top_k, task.capacity)
            longest = task.context_tokens + task.num_steps
            request = RequestKv(Backing(store, self.table), config, task.context_tokens, longest)
            self.request = resources.enter_context(request)
            self._resources = resources.pop_all()
        self.request.begin_step()

    def wrong_canaries(self) -> list[int]:
        """Layers without their canary where this host's table says that it is."""
        return self._wrong_canaries

    def attend(self, layer: int, given: LayerInput) -> LayerOutput:
        """The runtime's own step, of which this also tells what it chose and fetched."""
        latent = self.task.kv_layout.latent
        query = LayerQuery(given.row, given.query[:, :latent], given.query[:, latent:], lambda: given.scores)
        (done,) = step(layer, [self.request], [query], self.task.softmax_scale)
        return LayerOutput(done.topk, self.request.chosen_rows(layer, done.plan), done.output, done.plan.miss_tokens)

    def end_step(self) -> None:
        """Write the step's rows back; the next step begins unless this was the last."""
        self.request.write_back()
        if self.request.length < self.request.tokens_capacity:
            self.request.begin_step()

    def read_back(self, layer: int) -> ByteArray:
        """The new rows of a layer, from memory."""
        new_tokens = np.arange(self.task.context_tokens, self.task.context_tokens + self.task.num_steps)
        rows = self.table.rows(layer, new_tokens)
        _to_memory(self.store, rows)
        held = np.empty((self.task.num_steps, self.task.kv_layout.row_bytes), np.uint8)
        self.store.read_rows(rows, held)
        return held

    def close(self) -> None:
        self._resources.close()


def _num_blocks(task: Task) -> int:
    """Blocks of the context's prefix; the last may be partly full."""
    return -(-task.context_tokens // BLOCK_TOKENS)


def _num_tail_blocks(task: Task) -> int:
    """Blocks for the tokens that the reader adds."""
    return -(-task.num_steps // BLOCK_TOKENS)


def _names(tokens: IntArray) -> BlockHashes:
    return chain_hashes(tokens, BLOCK_TOKENS, partial=True)


def _wrong_canaries(task: Task, store: KvStore, pool: Pool, block: IntArray) -> list[int]:
    if not block.size:
        return list(range(task.num_layers))
    return layers_with_wrong_canary(store, pool.row_table(block), 0, task.num_layers)


def _prefix_table(task: Task, pool: Pool, blocks: IntArray) -> RowTable:
    num_blocks = _num_blocks(task)
    if len(blocks) != num_blocks:
        raise StoreError(
            f"task: the pool in {task.store} holds {len(blocks)} of the {num_blocks} blocks of this context;"
            " has it been populated?"
        )
    table = pool.row_table(blocks)
    return replace(table, first_layer=table.first_layer[: task.context_tokens])


def _to_memory(store: KvStore, rows: IntArray) -> None:
    """Write rows back and drop their lines, so that the next reader sees memory."""
    stride = store.layout.stride_bytes
    for row in rows.tolist():
        store.flush(store.rows_offset + row * stride, stride)
        store.fence()
        store.invalidate(store.rows_offset + row * stride, stride)
    store.fence()

"""One host's part in a job that spans hosts, as a command: write a context's KV into a pool, or decode from it.

    python -m guest.agent.worker TASKS < requests > replies

TASKS is a JSON list of `{"role": "populate" | "corrupt" | "fetch", "job": {fields of Job}}`, done one after another; tasks on one
store share its mapping. The same command runs in a guest on emulated CXL and on a host with a real device. It gets and gives back
bytes of fixed shape; whether they are right is for the caller to say, who kept the truth. numpy alone, and no clock: what it does
on an emulated device takes a time that means nothing.

    request of populate   (T,) int64 tokens, then for each layer (T, row_bytes) uint8
    request of corrupt    three int64: layer, token, byte; then (T,) int64 tokens
    request of fetch      (T,) int64 tokens, then for each step and layer: (T + step + 1,) fp32 scores, (H, D + R) fp32 queries,
                          (row_bytes,) uint8, the new token's row
    reply of each         int64 size_bytes, then as many bytes: of fetch an npz archive, see `Reply`; of the others none
"""

import hashlib
import io
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from guest.agent.guards import layers_with_wrong_canary, write_canaries
from sac_runtime.errors import GeometryError, SacError, StoreError
from sac_runtime.fetch.request import FetchConfig, RequestKv
from sac_runtime.fetch.step import LayerQuery, LayerStep, step
from sac_runtime.memory.backing import Backing
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.memory.store import KvStore
from sac_runtime.pool.block_hash import BlockHashes, chain_hashes
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import ByteArray, IntArray, KvLayout
from sac_runtime.rows.placement import RowTable

BLOCK_TOKENS = 64
DIGEST_BYTES = 16
CANARY_TOKENS = np.full(BLOCK_TOKENS, -1)  # no model's tokens: the block that holds them carries each layer's canary
LAYOUTS = {"fp8": KvLayout.fp8(padded=True), "bf16": KvLayout.bf16()}
WRITER, READER, NUM_HOSTS = 0, 1, 2  # host numbers in the pool; on one host two processes have them


@dataclass(frozen=True)
class Job:
    """What the writer and the reader of a context agree on. store: `dax:/dev/dax0.0`, `shared:PATH` or `numa:NODE`, the last
    for all its roles in one process."""

    store: str
    layout: str
    context_tokens: int
    num_layers: int
    num_heads: int
    top_k: int
    capacity: int
    num_steps: int
    softmax_scale: float

    @property
    def kv_layout(self) -> KvLayout:
        return LAYOUTS[self.layout]

    @property
    def num_blocks(self) -> int:
        """Blocks of one context's prefix; the last may be partly full."""
        return -(-self.context_tokens // BLOCK_TOKENS)

    @property
    def num_tail_blocks(self) -> int:
        """Blocks for the tokens that the reader adds."""
        return -(-self.num_steps // BLOCK_TOKENS)

    @property
    def geometry(self) -> PoolGeometry:
        """Arenas are equal, so the reader's is as large as the writer's: the context and the canary."""
        blocks = max(self.num_blocks, self.num_tail_blocks) + 1
        return PoolGeometry(self.kv_layout, NUM_HOSTS, self.num_layers, BLOCK_TOKENS, blocks)

    def open_store(self) -> MappedStore:
        """Map the store that `store` names. Raises StoreError, GeometryError."""
        kind, _, where = self.store.partition(":")
        geometry = self.geometry
        if kind == "dax":
            return MappedStore.dax(where, layout=self.kv_layout, metadata_bytes=geometry.metadata_bytes)
        if kind == "shared":
            return MappedStore.shared(
                where, layout=self.kv_layout, num_rows=geometry.num_rows, metadata_bytes=geometry.metadata_bytes
            )
        if kind == "numa":
            return MappedStore.numa(
                int(where), self.kv_layout, geometry.num_rows, metadata_bytes=geometry.metadata_bytes
            )
        raise StoreError(f"job: store='{self.store}' must begin with dax:, shared: or numa:")


class Reply:
    """What a reader saw, for S steps, L layers, k entries. Arrays of `packed`:

    positions: (S, L, k) int32, the exact top-k, -1 past its end; digests: (S, L, k, 16) uint8, blake2b of each chosen row as
    attention read it; attention: (S, L, H, D) fp32; written: (S, L, 16) uint8, blake2b of each new row as the pool holds it;
    misses: (S, L) int32, and miss_tokens: their tokens one after another; wrong_canaries: layers without their canary."""

    def __init__(self, job: Job) -> None:
        shape = (job.num_steps, job.num_layers)
        self.positions = np.full((*shape, job.top_k), -1, np.int32)
        self.digests = np.zeros((*shape, job.top_k, DIGEST_BYTES), np.uint8)
        self.attention = np.zeros((*shape, job.num_heads, job.kv_layout.latent), np.float32)
        self.written = np.zeros((*shape, DIGEST_BYTES), np.uint8)
        self.misses = np.zeros(shape, np.int32)
        self.miss_tokens: list[IntArray] = []
        self.wrong_canaries: list[int] = []

    def note(self, at: tuple[int, int], done: LayerStep, rows: ByteArray) -> None:
        """Take in one layer of one step, and the rows that it chose."""
        self.positions[at][: done.topk.size] = done.topk
        self.digests[at][: done.topk.size] = digests(rows)
        self.attention[at] = done.output
        self.misses[at] = done.plan.misses
        self.miss_tokens.append(done.plan.miss_tokens)

    def packed(self) -> bytes:
        """The arrays as an npz archive."""
        arrays: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        arrays["miss_tokens"] = np.concatenate(self.miss_tokens)
        arrays["wrong_canaries"] = np.array(self.wrong_canaries, np.int64)
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()


def digests(rows: ByteArray) -> ByteArray:
    """blake2b of each row. rows: (n, row_bytes) uint8. Returns (n, DIGEST_BYTES) uint8."""
    joined = b"".join(hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest() for row in np.ascontiguousarray(rows))
    return np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)


def populate(job: Job, store: KvStore, request: BinaryIO) -> None:
    """Write a context layer by layer as it comes, then publish its blocks."""
    tokens = _take(request, np.int64, job.context_tokens)
    with _writers_pool(job, store) as pool:
        blocks = pool.allocate(job.num_blocks)
        for layer in range(job.num_layers):
            rows = _take(request, np.uint8, job.context_tokens, job.kv_layout.row_bytes)
            pool.write(blocks, layer, rows)
        in_last = job.context_tokens - (job.num_blocks - 1) * BLOCK_TOKENS
        pool.publish(blocks, _names(tokens), np.r_[np.full(job.num_blocks - 1, BLOCK_TOKENS), in_last])


def corrupt(job: Job, store: KvStore, request: BinaryIO) -> None:
    """Flip one bit of a published row behind the pool's back, to see that the check notices."""
    layer, token, byte = _take(request, np.int64, 3).tolist()
    with Pool.open(store, host=WRITER) as pool, pool.lease() as lease:
        rows = _found(job, pool, lease.prefix(_names(_take(request, np.int64, job.context_tokens)))).rows(
            layer, np.array([token])
        )
    row = np.empty((1, job.kv_layout.row_bytes), np.uint8)
    store.read_rows(rows, row)
    row[0, byte] ^= 1
    store.write_rows(rows, row)
    _to_memory(store, rows)


def fetch(job: Job, store: KvStore, request: BinaryIO) -> Reply:
    """Find a context by its tokens and decode `num_steps` tokens from it."""
    reply = Reply(job)
    tokens = _take(request, np.int64, job.context_tokens)
    with Pool.open(store, host=READER, expected=job.geometry) as pool, pool.lease() as lease:
        reply.wrong_canaries = _wrong_canaries(job, store, pool, lease.prefix(_names(CANARY_TOKENS)))
        prefix = _found(job, pool, lease.prefix(_names(tokens)))
        tail = pool.row_table(pool.allocate(job.num_tail_blocks))
        table = replace(prefix, first_layer=np.concatenate([prefix.first_layer, tail.first_layer]))
        config = FetchConfig(job.num_layers, job.top_k, job.capacity)
        with RequestKv(
            Backing(store, table), config, job.context_tokens, job.context_tokens + job.num_steps
        ) as sequence:
            for index in range(job.num_steps):
                _decode_token(job, index, sequence, request, reply)
        _read_back(job, store, table, reply)
    return reply


def _decode_token(job: Job, index: int, sequence: RequestKv, request: BinaryIO, reply: Reply) -> None:
    sequence.begin_step()
    for layer in range(job.num_layers):
        (done,) = step(layer, [sequence], [_next_query(job, index, request)], job.softmax_scale)
        reply.note((index, layer), done, sequence.chosen_rows(layer, done.plan))
    sequence.write_back()


def _next_query(job: Job, index: int, request: BinaryIO) -> LayerQuery:
    layout = job.kv_layout
    scores = _take(request, np.float32, job.context_tokens + index + 1)
    queries = _take(request, np.float32, job.num_heads, layout.latent + layout.rope)
    row = _take(request, np.uint8, layout.row_bytes)
    return LayerQuery(row, queries[:, : layout.latent], queries[:, layout.latent :], lambda: scores)


def _read_back(job: Job, store: KvStore, table: RowTable, reply: Reply) -> None:
    """Read the rows that were written back as another host would: from memory."""
    new_tokens = np.arange(job.context_tokens, job.context_tokens + job.num_steps)
    for layer in range(job.num_layers):
        rows = table.rows(layer, new_tokens)
        _to_memory(store, rows)
        found = np.empty((job.num_steps, job.kv_layout.row_bytes), np.uint8)
        store.read_rows(rows, found)
        reply.written[:, layer] = digests(found)


def _to_memory(store: KvStore, rows: IntArray) -> None:
    """Write rows back and drop their lines, so that the next reader sees memory."""
    stride = store.layout.stride_bytes
    for row in rows.tolist():
        store.flush(store.rows_offset + row * stride, stride)
        store.fence()
        store.invalidate(store.rows_offset + row * stride, stride)
    store.fence()


def _writers_pool(job: Job, store: KvStore) -> Pool:
    """A new pool in `store`, whatever it held before."""
    geometry = job.geometry
    pool = Pool.create(
        store,
        host=WRITER,
        num_hosts=geometry.num_hosts,
        num_layers=geometry.num_layers,
        block_tokens=geometry.block_tokens,
        blocks_per_host=geometry.blocks_per_host,
        replace=True,
    )
    block = pool.allocate(1)
    write_canaries(store, pool.row_table(block), 0, job.num_layers)
    pool.publish(block, _names(CANARY_TOKENS))
    return pool


def _wrong_canaries(job: Job, store: KvStore, pool: Pool, block: IntArray) -> list[int]:
    if not block.size:
        return list(range(job.num_layers))
    return layers_with_wrong_canary(store, pool.row_table(block), 0, job.num_layers)


def _found(job: Job, pool: Pool, blocks: IntArray) -> RowTable:
    if len(blocks) != job.num_blocks:
        raise StoreError(
            f"job: the pool in {job.store} holds {len(blocks)} of the {job.num_blocks} blocks of this context;"
            " has it been populated?"
        )
    table = pool.row_table(blocks)
    return replace(table, first_layer=table.first_layer[: job.context_tokens])


def _names(tokens: IntArray) -> BlockHashes:
    return chain_hashes(tokens, BLOCK_TOKENS, partial=True)


def _take(request: BinaryIO, dtype: type[np.generic], *shape: int) -> NDArray[Any]:
    """The next array of the request."""
    wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = request.read(wanted)
    if len(raw) != wanted:
        raise GeometryError(f"job: the request ends {wanted - len(raw)} bytes too early; job and request do not fit")
    return np.frombuffer(raw, dtype).reshape(shape)


_ROLES: dict[str, Callable[[Job, KvStore, BinaryIO], Reply | None]] = {
    "populate": populate,
    "corrupt": corrupt,
    "fetch": fetch,
}


def main(arguments: list[str]) -> int:
    """Do the tasks, replying to each as it is done. Returns the exit status."""
    stores: dict[str, KvStore] = {}
    try:
        with ExitStack() as open_stores:
            for task in json.loads(arguments[0]):
                job = Job(**task["job"])
                if job.store not in stores:
                    stores[job.store] = open_stores.enter_context(job.open_store())
                reply = _ROLES[task["role"]](job, stores[job.store], sys.stdin.buffer)
                _send(sys.stdout.buffer, b"" if reply is None else reply.packed())
    except SacError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


def _send(out: BinaryIO, reply: bytes) -> None:
    out.write(len(reply).to_bytes(8, "little") + reply)
    out.flush()


def split_replies(replies: bytes) -> list[bytes]:
    """What a worker wrote, task by task."""
    found = []
    while replies:
        end = 8 + int.from_bytes(replies[:8], "little")
        found.append(replies[8:end])
        replies = replies[end:]
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

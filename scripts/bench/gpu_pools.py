"""Pools, batches and steps for the GPU benchmark. Knows placements and contents; times nothing.

Every 8-byte word of a pool is a hash of its own offset, so that any row brought anywhere can be checked. Two pools, as docs/gpu.md
names them: A of at most 1 GB per layer, 64-token pages anywhere in it; B of at least 48 GB and 9 GB per layer, with one extent per
sequence and layer, or the same pages scattered over it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sac_runtime.gpu.buffers import BatchBuffers, BatchShape
from sac_runtime.gpu.registration import RegisteredStore
from sac_runtime.gpu.rows import gather_rows, scatter_rows
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import DEEPSEEK_TOP_K, KvLayout

DEVICE = torch.device("cuda")
CONTEXT_TOKENS = 1 << 17
PAGE_TOKENS = 64
FILL_ROWS = 1 << 20
LAYOUTS = {1152: KvLayout.bf16(), 656: KvLayout.fp8(padded=False)}


@dataclass(frozen=True)
class BenchPool:
    """A registered pool of some layers. extents: each sequence of a layer lies in one, else its pages of
    scattered_tokens lie anywhere in the layer."""

    store: RegisteredStore
    num_layers: int
    layer_rows: int
    extents: bool
    scattered_tokens: int = PAGE_TOKENS

    @property
    def page_tokens(self) -> int:
        return CONTEXT_TOKENS if self.extents else self.scattered_tokens

    @property
    def layer_bytes(self) -> int:
        return self.layer_rows * self.store.layout.stride_bytes

    def pages(self, num_requests: int) -> torch.Tensor:
        """First rows of the pages of each request, (R, P) int64, in layer 0."""
        if self.extents:
            sequences = self.layer_rows // CONTEXT_TOKENS
            chosen = torch.arange(num_requests, device=DEVICE) * sequences // num_requests
            return (chosen * CONTEXT_TOKENS)[:, None].contiguous()
        pages = self.layer_rows // self.scattered_tokens
        needed = num_requests * (CONTEXT_TOKENS // self.scattered_tokens)
        order = torch.cat([torch.randperm(pages, device=DEVICE) for _ in range(-(-needed // pages))])
        return (order[:needed] * self.scattered_tokens).reshape(num_requests, -1).contiguous()


@contextmanager
def registered_pool(
    layout: KvLayout, num_layers: int, layer_rows: int, huge_pages: bool = False
) -> Iterator[RegisteredStore]:
    """A file in /dev/shm, which ends with its mapping, registered and filled."""
    path = Path(f"/dev/shm/cxlbed-bench-{os.getpid()}")
    mapped = MappedStore.shared(path, layout=layout, num_rows=num_layers * layer_rows, huge_pages=huge_pages)
    path.unlink()
    with mapped, RegisteredStore(mapped, DEVICE) as store:
        for first in range(0, mapped.num_rows, FILL_ROWS):
            rows = torch.arange(first, min(first + FILL_ROWS, mapped.num_rows), device=DEVICE)
            scatter_rows(store, rows, expected_rows(layout, rows))
        torch.cuda.synchronize()
        yield store


def expected_rows(layout: KvLayout, rows: torch.Tensor) -> torch.Tensor:
    """What the pool holds in `rows`. rows: (n,) int64. Returns (n, row_bytes) uint8."""
    words = torch.arange(layout.row_bytes // 8, device=rows.device)
    offsets = rows[:, None] * layout.stride_bytes + 8 * words
    hashed = offsets * -7046029254386353131  # 2^64 / golden ratio, odd
    return (hashed ^ (hashed >> 29)).view(torch.uint8)


class BenchBatch:
    """A batch in steady state, of which every replay asks for other rows, with a given number of misses per request and layer.

    In each layer the buffers hold random tokens in random order of use. begin() draws the next top-k; without `fresh` it restores
    what was held before, and every replay asks for the same rows."""

    def __init__(
        self, pool: BenchPool, num_requests: int, misses: int, capacity: int = 2 * DEEPSEEK_TOP_K, fresh: bool = True
    ) -> None:
        shape = BatchShape(
            pool.num_layers,
            num_requests,
            DEEPSEEK_TOP_K,
            capacity,
            CONTEXT_TOKENS,
            pool.page_tokens,
            count_compulsory=False,
        )
        self.pool = pool
        self.misses = misses
        self.fresh = fresh
        self.buffers = BatchBuffers(shape, pool.store.layout, DEVICE)
        self.buffers.pages.copy_(pool.pages(num_requests))
        self.buffers.held[..., 0] = 1
        self.buffers.held[..., 1] = CONTEXT_TOKENS
        both = pool.num_layers, num_requests
        self.topk = torch.zeros((*both, DEEPSEEK_TOP_K), dtype=torch.int32, device=DEVICE)
        self.counts = torch.full((num_requests,), DEEPSEEK_TOP_K, dtype=torch.int32, device=DEVICE)
        self.lengths = torch.full((num_requests,), CONTEXT_TOKENS, dtype=torch.int32, device=DEVICE)
        self._fill()
        for layer in range(pool.num_layers):
            self.topk[layer] = self._draw(layer)
        self._saved = self.buffers.tokens.clone(), self.buffers.order.clone()
        self._flushed = torch.empty(192 << 20, dtype=torch.uint8, device=DEVICE)

    def first_row(self, layer: int) -> int:
        return layer * self.pool.layer_rows

    def rows_of(self, layer: int, request: int, tokens: torch.Tensor) -> torch.Tensor:
        page_tokens = self.pool.page_tokens
        pages = self.buffers.pages[request, tokens // page_tokens]
        return pages + tokens % page_tokens + self.first_row(layer)

    def begin(self) -> None:
        """Another top-k in every layer, or the state of before; and an L2 that holds nothing of it."""
        if self.fresh:
            for layer in range(self.pool.num_layers):
                self.topk[layer] = self._draw(layer)
        else:
            self.buffers.tokens.copy_(self._saved[0])
            self.buffers.order.copy_(self._saved[1])
        self._flushed.random_()

    def require_right_rows(self) -> None:
        """Compare what every slot of the last top-k holds, hits too, with the pool's contents, and counts with what was asked."""
        self.buffers.raise_refusals()
        missed = self.buffers.plan.num_misses.unique().tolist()
        assert missed == [self.misses], f"{missed} misses, {self.misses} were asked for"
        layer = self.pool.num_layers - 1  # whose plan is the one that is still there
        for request in range(self.buffers.shape.num_requests):
            slots = self.buffers.plan.slots[request].long()
            rows = self.rows_of(layer, request, self.topk[layer, request].long())
            same = self.buffers.rows[layer, request, slots] == expected_rows(self.pool.store.layout, rows)
            assert bool(same.all()), f"request {request}: slots hold other rows than the pool"

    def _fill(self) -> None:
        """Random tokens into the slots, in random order of use, with their rows."""
        shape = self.buffers.shape
        for layer in range(shape.num_layers):
            tokens = torch.rand((shape.num_requests, CONTEXT_TOKENS - 1), device=DEVICE).topk(shape.capacity).indices
            slots = torch.rand((shape.num_requests, shape.capacity), device=DEVICE).argsort(dim=1)
            self.buffers.order[layer] = slots.to(torch.int32)
            self.buffers.tokens[layer] = tokens.to(torch.int32)
            for request in range(shape.num_requests):
                rows = self.rows_of(layer, request, tokens[request])
                packed = torch.empty(
                    (shape.capacity, self.pool.store.layout.row_bytes), dtype=torch.uint8, device=DEVICE
                )
                gather_rows(self.pool.store, rows, packed)
                self.buffers.rows[layer, request, slots[request]] = packed

    def _draw(self, layer: int) -> torch.Tensor:
        """Top-k of one layer, in random order: hits anywhere in the order of use, misses anywhere in the rest of the context."""
        shape, held = self.buffers.shape, self.buffers.tokens[layer].long()
        hits = torch.rand(held.shape, device=DEVICE).topk(shape.top_k - self.misses).indices
        keys = torch.rand((shape.num_requests, CONTEXT_TOKENS - 1), device=DEVICE).scatter_(1, held, -1.0)
        chosen = torch.cat([held.gather(1, hits), keys.topk(self.misses).indices], dim=1)
        return chosen.gather(1, torch.rand(chosen.shape, device=DEVICE).argsort(dim=1)).to(torch.int32)

"""Hot buffers of a batch in the memory of a device, and what a step leaves there. Knows shapes and placements; moves nothing.

Letters beside those of sac_runtime.rows.layout: R requests of a batch, P pages of a request."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from sac_runtime.errors import GeometryError
from sac_runtime.fetch.hot_buffer import Counters
from sac_runtime.rows.layout import KvLayout
from sac_runtime.rows.placement import LayerRows

COUNTERS = 4  # steps, hits, misses, compulsory
WORD_BYTES = 4


@dataclass(frozen=True)
class BatchShape:
    """Sizes of the hot buffers of a batch. tokens_capacity: the longest a sequence may grow. page_tokens: tokens whose rows follow
    one another; all of them where a sequence and layer lie in one extent. Raises GeometryError.

    count_compulsory: keep a bit per token, layer and request, to tell misses of tokens that never had a slot."""

    num_layers: int
    num_requests: int
    top_k: int
    capacity: int
    tokens_capacity: int
    page_tokens: int
    count_compulsory: bool = True

    def __post_init__(self) -> None:
        for field in ("num_layers", "num_requests", "top_k", "tokens_capacity", "page_tokens"):
            if getattr(self, field) < 1:
                raise GeometryError(f"gpu batch: {field}={getattr(self, field)} must be at least 1")
        if not self.top_k <= self.capacity <= 0xFFFF:
            raise GeometryError(
                f"gpu batch: capacity={self.capacity} must lie in [top_k={self.top_k}, 65535]; a step's entries would not fit"
            )
        if self.pages * self.page_tokens > 2**31 - 1:
            raise GeometryError(f"gpu batch: tokens_capacity={self.tokens_capacity} is beyond 2147483647")

    @property
    def pages(self) -> int:
        return -(-self.tokens_capacity // self.page_tokens)

    @property
    def seen_words(self) -> int:
        return -(-self.pages * self.page_tokens // 32)


class BatchPlan(NamedTuple):
    """What a step of a layer did to the buffers of a batch, on the device; the next step overwrites it. All int32.

    slots: (R, k) slot of each top-k entry, in the order asked, -1 behind them. miss_tokens, victim_slots: (R, k), of which the
    first num_misses[r] count. num_misses: (R,). status: (R,) 0, or why nothing was planned (see BatchBuffers.raise_refusals)."""

    slots: torch.Tensor
    miss_tokens: torch.Tensor
    victim_slots: torch.Tensor
    num_misses: torch.Tensor
    status: torch.Tensor


class BatchBuffers:
    """Slots and LRU state of each layer and request of a batch, all allocated here, so that no step allocates.

    rows: (L, R, B + 1, row_bytes) uint8, the newest token's slot last. tokens, order: (L, R, B) int32, token and slot from the
    least recently used on. held: (L, R, 2) int32: whether the direct path has ended, and the last length. pages: (R, P) int64, row
    of the first token of each page in layer 0. Raises GeometryError for rows that are no whole number of 4 B words."""

    def __init__(self, shape: BatchShape, layout: KvLayout, device: torch.device) -> None:
        if layout.row_bytes % WORD_BYTES or layout.stride_bytes % WORD_BYTES:
            raise GeometryError(f"gpu batch: layout {layout.name!r}: row_bytes={layout.row_bytes} is no multiple of 4")
        self.shape = shape
        self.layout = layout
        self.device = device
        both = shape.num_layers, shape.num_requests
        self.rows = torch.empty((*both, shape.capacity + 1, layout.row_bytes), dtype=torch.uint8, device=device)
        self.tokens = self._numbers(*both, shape.capacity)
        self.order = self._numbers(*both, shape.capacity)
        self.held = self._numbers(*both, 2)
        self.seen = self._numbers(*both, shape.seen_words) if shape.count_compulsory else None
        self.counters = torch.zeros((*both, COUNTERS), dtype=torch.int64, device=device)
        self.pages = torch.zeros((shape.num_requests, shape.pages), dtype=torch.int64, device=device)
        slots, miss_tokens, victim_slots = (self._numbers(shape.num_requests, shape.top_k) for _ in range(3))
        num_misses, status = (self._numbers(shape.num_requests) for _ in range(2))
        self.plan = BatchPlan(slots, miss_tokens, victim_slots, num_misses, status)
        self.forget()

    def place(self, request: int, where: LayerRows) -> None:
        """Where the tokens of `request` lie; its first_row is what each step is given. Raises GeometryError for a table whose rows
        do not follow one another within a page, or that places too few or too many tokens."""
        shape = self.shape
        if where.table is None:
            self.pages[request] = torch.arange(shape.pages, device=self.device) * shape.page_tokens
            return
        table = torch.from_numpy(where.table)
        first = table[:: shape.page_tokens]
        within = torch.arange(len(table)) % shape.page_tokens
        if len(first) > shape.pages or not torch.equal(
            first.repeat_interleave(shape.page_tokens)[: len(table)] + within, table
        ):
            raise GeometryError(
                f"gpu batch: the placement of request {request} has no pages of {shape.page_tokens} tokens whose rows follow one "
                f"another, {shape.pages} at most; make the batch with the pool's block_tokens as page_tokens"
            )
        self.pages[request, : len(first)] = first.to(self.device)

    def forget(self, request: int | None = None) -> None:
        """Forget every token of one request, or of all, and keep the counts; all tokens are new again."""
        which = slice(None) if request is None else slice(request, request + 1)
        self.tokens[:, which] = -1
        self.order[:, which] = torch.arange(self.shape.capacity, dtype=torch.int32, device=self.device)
        self.held[:, which] = 0
        if self.seen is not None:
            self.seen[:, which] = 0

    def newest_slot(self, layer: int, request: int, length: int) -> int:
        """Where the newest token of a sequence of `length` goes, after a step. Waits for the device."""
        return self.shape.capacity if int(self.held[layer, request, 0]) else length - 1

    def counts(self, layer: int) -> Counters:
        """Sums over the requests of a layer. Waits for the device."""
        return Counters(*(int(count) for count in self.counters[layer].sum(dim=0)))

    def raise_refusals(self) -> None:
        """Raise GeometryError if the last step planned nothing for a request. Waits for the device."""
        for request, status in enumerate(self.plan.status.tolist()):
            if status:
                raise GeometryError(f"gpu batch: request {request}: {_refusal(status)}; nothing was planned for it")

    def _numbers(self, *sizes: int) -> torch.Tensor:
        return torch.zeros(sizes, dtype=torch.int32, device=self.device)


def _refusal(status: int) -> str:
    if status > 0:
        return f"topk[{status - 1}] lies outside the sequence or is named twice; each token may be asked for once"
    if status == -1:
        return "length is below that of the step before or beyond tokens_capacity; forget() before a rollback"
    return "the row of a miss lies outside the store"

"""The fetch path of a decode step, and the write path: what moves between a store and the hot buffers, layer by layer.

Knows requests, plans and rows; knows neither the memory behind a store nor how scores come about.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Self

import numpy as np

from sac_runtime.errors import GeometryError, RowCheckError
from sac_runtime.fetch.hot_buffer import Counters, HotBuffer
from sac_runtime.fetch.residency import (
    Admission,
    Residency,
    admit_full_prefix,
    admit_resident,
    admit_sparse,
)
from sac_runtime.memory.backing import Backing
from sac_runtime.memory.gather import slot_gather
from sac_runtime.memory.store import Plan
from sac_runtime.rows.doors import require_array, require_whole
from sac_runtime.rows.layout import DEEPSEEK_TOP_K, SAC_BUFFER_SLOTS, ByteArray, IntArray, KvLayout


@dataclass(frozen=True)
class FetchConfig:
    """Sizes of the fetch path. capacity: slots of a hot buffer, ignored by `resident`, which has one for each token."""

    num_layers: int
    top_k: int = DEEPSEEK_TOP_K
    capacity: int = SAC_BUFFER_SLOTS
    residency: Residency = Residency.SPARSE

    def __post_init__(self) -> None:
        for field in ("num_layers", "top_k", "capacity"):
            require_whole("fetch", field, getattr(self, field), 1)
        if not isinstance(self.residency, Residency):
            raise GeometryError(f"fetch: residency={self.residency!r} must be one of {', '.join(Residency)}")


@dataclass
class BytesMoved:
    """What moved for one request. Times are by the stores' clocks; bytes are payload."""

    prefix_bytes: int = 0
    prefix_ns: int = 0
    fetched_bytes: int = 0
    fetched_ns: int = 0
    written_bytes: int = 0
    written_ns: int = 0


class RequestKv:
    """One request's KV on the decoding host: a slot buffer and a hot buffer for each layer, over its home in the pool.

    num_tokens: prompt tokens whose rows are in the pool already; tokens_capacity: the longest the sequence may grow.
    A context manager: it may hold local memory."""

    def __init__(self, home: Backing, config: FetchConfig, num_tokens: int, tokens_capacity: int) -> None:
        require_whole("request", "num_tokens", num_tokens)
        require_whole("request", "tokens_capacity", tokens_capacity)
        if num_tokens > tokens_capacity:
            raise GeometryError(f"request: num_tokens={num_tokens} exceeds tokens_capacity={tokens_capacity}")
        self.home = home
        self.config = config
        self.length = num_tokens
        self.tokens_capacity = tokens_capacity
        self._row_bytes = self.layout.row_bytes
        self._resources = ExitStack()
        capacity = self._capacity()
        self.buffers = [HotBuffer(capacity, config.top_k) for _ in range(config.num_layers)]
        self.slots = np.empty((config.num_layers, capacity + 1, self._row_bytes), np.uint8)
        admission = self._admit()
        self.source = admission.source
        self.traffic = BytesMoved(prefix_bytes=admission.prefix_bytes, prefix_ns=admission.prefix_ns)
        self._gathers = [slot_gather(self.source.store, *each) for each in zip(self.buffers, self.slots, strict=True)]
        self._newest_slots: dict[int, int] = {}  # by layer, once this step has brought its newest row

    @property
    def layout(self) -> KvLayout:
        return self.home.store.layout

    def begin_step(self) -> None:
        """A new token enters the sequence; its rows come with place_newest, layer by layer. Raises GeometryError."""
        if self.length == self.tokens_capacity:
            raise GeometryError(f"request: length={self.length} has reached tokens_capacity; no step may follow")
        self.length += 1
        self._newest_slots.clear()

    def fetch(self, layer: int, topk: IntArray) -> tuple[Plan, int]:
        """Plan and gather. topk: (k,) int64 tokens. Returns the plan and the gather's elapsed ns by the store's clock.

        Raises as SlotGather.fetch, RowCheckError naming layer and rows, and RowRangeError for a token or a length outside the
        request's placement."""
        place = self.source.placement.layer(layer)  # refuses a layer outside
        try:
            plan, elapsed_ns = self._gathers[layer].fetch(topk, self.length, place)
        except RowCheckError as error:
            raise RowCheckError(error.rows, f"layer {layer}, ") from error
        self.traffic.fetched_bytes += plan.misses * self._row_bytes
        self.traffic.fetched_ns += elapsed_ns
        return plan, elapsed_ns

    def chosen_rows(self, layer: int, plan: Plan) -> ByteArray:
        """The rows of the plan's entries in the order asked, (k, row_bytes) uint8, from their slots."""
        rows: ByteArray = self.slots[layer].take(plan.slots, axis=0)
        return rows

    def place_newest(self, layer: int, plan: Plan, row: ByteArray) -> None:
        """Put the newest token's row, (row_bytes,) uint8, where the plan wants it, before attention reads its slots."""
        require_array("request", "row", row, np.uint8, (self._row_bytes,))
        if plan.newest_slot is None:
            raise GeometryError(f"request: the plan of layer {layer} has no newest token to place")
        self.slots[layer, plan.newest_slot] = row
        self._newest_slots[layer] = plan.newest_slot

    def write_back(self) -> None:
        """End a step: write the newest token's rows, all layers at once, to the pool, and to the local copy where there is
        one. Nobody reads them sooner than the next step. Raises GeometryError, and writes nothing, if a layer has none."""
        layers = range(self.config.num_layers)
        missing = [layer for layer in layers if layer not in self._newest_slots]
        if missing:
            raise GeometryError(
                f"request: layers {missing} have no row for token {self.length - 1}; place_newest first"
            )
        rows = self.slots[layers, [self._newest_slots[layer] for layer in layers]]
        self.traffic.written_ns += self.home.write_token(self.length - 1, rows)
        self.traffic.written_bytes += rows.size
        if self.source is not self.home:
            self.source.write_token(self.length - 1, rows)

    def write(self, layer: int, first_token: int, values: ByteArray) -> None:
        """Write rows of consecutive tokens of a layer, as prefill does. values: (n, row_bytes) uint8. Raises GeometryError."""
        require_whole("request", "first_token", first_token)
        require_array("request", "values", values, np.uint8, ("n", self._row_bytes))
        tokens = np.arange(first_token, first_token + values.shape[0])
        self.traffic.written_ns += self.home.write(layer, tokens, values)
        self.traffic.written_bytes += values.size
        if self.source is not self.home:
            self.source.write(layer, tokens, values)

    def close(self) -> None:
        """Give back local memory."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _capacity(self) -> int:
        """Slots of each hot buffer."""
        if self.config.residency is Residency.RESIDENT:
            return max(self.tokens_capacity, self.config.top_k)
        return self.config.capacity

    def _admit(self) -> Admission:
        """Do what the residency asks for before the first step."""
        if self.config.residency is Residency.FULL_PREFIX:
            return admit_full_prefix(
                self.home, self.config.num_layers, self.length, self.tokens_capacity, self._resources
            )
        if self.config.residency is Residency.RESIDENT:
            return admit_resident(self.home, self.buffers, self.slots, self.length)
        return admit_sparse(self.home)


def layer_counters(batch: Sequence[RequestKv]) -> list[Counters]:
    """Counters of each layer, summed over the requests of a batch that share a number of layers."""
    return [sum(layer, Counters()) for layer in zip(*([b.counters for b in r.buffers] for r in batch), strict=True)]


def breakeven_steps(length: int, misses_per_step: float) -> float:
    """Steps after which fetching misses has moved more bytes than one copy of the whole prefix; inf without misses."""
    return length / misses_per_step if misses_per_step else inf

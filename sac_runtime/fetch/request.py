"""The fetch path of a decode step, and the write path: what moves between a store and the hot buffers, layer by layer.

Knows requests, plans and rows; knows neither the memory behind a store nor how scores come about. Three ways to hold a
request's KV run this same code and differ only in where misses come from and how many slots there are:

    sparse       SAC: misses come straight from the pool, a hot buffer of a few times top-k slots
    full-prefix  RDMA: the whole prefix is copied to local memory first, misses come from there, the same hot buffer
    resident     HBM: the whole prefix is loaded into a buffer with a slot for every token; nothing is fetched later
"""

from collections.abc import Sequence
from contextlib import ExitStack
from ctypes import addressof
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from types import TracebackType
from typing import Self

import numpy as np

from sac_runtime import native
from sac_runtime.errors import GeometryError, RowRangeError
from sac_runtime.fetch.hot_buffer import Counters, HotBuffer, Plan
from sac_runtime.memory.backing import Backing
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.memory.store import SlotReader
from sac_runtime.rows.layout import ByteArray, IntArray, KvLayout
from sac_runtime.rows.placement import LayerFirst


class Residency(StrEnum):
    """How a request's KV is held on the decoding host; see the module's head."""

    SPARSE = "sparse"
    FULL_PREFIX = "full-prefix"
    RESIDENT = "resident"


@dataclass(frozen=True)
class FetchConfig:
    """Sizes of the fetch path. capacity: slots of a hot buffer, ignored by `resident`, which has one for each token."""

    num_layers: int
    top_k: int = 2048
    capacity: int = 6144  # SAC's main runs
    residency: Residency = Residency.SPARSE


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
        if num_tokens > tokens_capacity:
            raise GeometryError(f"request: num_tokens={num_tokens} exceeds tokens_capacity={tokens_capacity}")
        self.home = home
        self.config = config
        self.length = num_tokens
        self.tokens_capacity = tokens_capacity
        self._row_bytes = self.layout.row_bytes
        self.traffic = BytesMoved()
        self._resources = ExitStack()
        everything = max(tokens_capacity, config.top_k)
        capacity = everything if config.residency is Residency.RESIDENT else config.capacity
        self.buffers = [HotBuffer(capacity, config.top_k) for _ in range(config.num_layers)]
        self.slots = np.empty((config.num_layers, capacity + 1, home.store.layout.row_bytes), np.uint8)
        self.source = self._admit(tokens_capacity)
        store = self.source.store
        self._slot_reader = store if isinstance(store, SlotReader) else None
        self._sac_fetch = native.load().sac_fetch
        self._mapped = store if isinstance(store, MappedStore) and not store.has_helpers else None
        self._gathers = [] if self._mapped is None else [self._mapped.gather_into(slots) for slots in self.slots]
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
        """Plan and gather. topk: (k,) int64 tokens. Returns the plan and the gather's elapsed ns by the store's clock."""
        if self._mapped is None:
            plan = self.plan(layer, topk)
            return plan, self.gather(layer, plan)
        buffer, gather, place = self.buffers[layer], self._gathers[layer], self.source.placement.layer(layer)
        if self.length > place.num_tokens:
            raise RowRangeError(f"request: length={self.length} exceeds the {place.num_tokens} tokens of its placement")
        if place.table is not None:
            _require_table(place.table, place.num_tokens)
        call, output = buffer.begin_plan(topk, self.length, place)
        gather.store = self._mapped.rows_address  # or the store is closed, and raises
        plan = buffer.end_plan(topk, call, output, self._sac_fetch(buffer.address, addressof(call), addressof(gather)))
        if call.outside:
            self.gather(layer, plan)  # moves nothing either, and says which row
        elapsed_ns = call.gather_ns
        self._count(plan, elapsed_ns)
        return plan, elapsed_ns

    def plan(self, layer: int, topk: IntArray) -> Plan:
        """Plan this step's fetch of `topk` tokens, (k,) int64, the newest (length - 1) among them or not."""
        return self.buffers[layer].plan(topk, self.length)

    def gather(self, layer: int, plan: Plan) -> int:
        """Fetch the plan's misses into their slots. Returns elapsed ns by the store's clock.

        If the store fails, the layer's buffer forgets all it held, since its plan no longer matches its bytes."""
        try:
            elapsed_ns = self._fill(layer, plan)
        except BaseException:
            self.buffers[layer].forget()
            raise
        self._count(plan, elapsed_ns)
        return elapsed_ns

    def chosen_rows(self, layer: int, plan: Plan) -> ByteArray:
        """The rows of the plan's entries in the order asked, (k, row_bytes) uint8, from their slots."""
        rows: ByteArray = self.slots[layer].take(plan.slots, axis=0)
        return rows

    def place_newest(self, layer: int, plan: Plan, row: ByteArray) -> None:
        """Put the newest token's row, (row_bytes,) uint8, where the plan wants it, before attention reads its slots."""
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
        """Write rows of consecutive tokens of a layer, as prefill does. values: (n, row_bytes) uint8."""
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

    def _count(self, plan: Plan, elapsed_ns: int) -> None:
        self.traffic.fetched_bytes += plan.misses * self._row_bytes
        self.traffic.fetched_ns += elapsed_ns

    def _fill(self, layer: int, plan: Plan) -> int:
        if not plan.misses:
            return 0
        rows = self.source.placement.layer(layer).rows(plan.miss_tokens)
        if self._slot_reader is not None:
            return self._slot_reader.read_rows_into_slots(rows, self.slots[layer], plan.victim_slots)
        staged = np.empty((plan.misses, self.layout.row_bytes), np.uint8)
        elapsed_ns = self.source.store.read_rows(rows, staged)
        self.slots[layer, plan.victim_slots] = staged
        return elapsed_ns

    def _admit(self, tokens_capacity: int) -> Backing:
        """Do what the residency asks for before the first step; returns where misses come from."""
        if self.config.residency is Residency.FULL_PREFIX:
            return self._copy_prefix(tokens_capacity)
        if self.config.residency is Residency.RESIDENT:
            self._load_prefix()
        return self.home

    def _copy_prefix(self, tokens_capacity: int) -> Backing:
        placement = LayerFirst(self.config.num_layers, tokens_capacity)
        local = self._resources.enter_context(MappedStore.anonymous(self.layout, placement.num_rows))
        prefix = np.empty((self.length, self.layout.row_bytes), np.uint8)
        tokens = np.arange(self.length)
        for layer in range(self.config.num_layers):
            self.traffic.prefix_ns += self.home.read(layer, tokens, prefix)
            local.write_rows(placement.rows(layer, tokens), prefix)
        self.traffic.prefix_bytes += self.config.num_layers * prefix.size
        return Backing(local, placement)

    def _load_prefix(self) -> None:
        """On the direct path a token's slot is its number, so the prefix lands in one read of each layer."""
        tokens = np.arange(self.length)
        for layer, buffer in enumerate(self.buffers):
            buffer.preload(self.length)
            self.traffic.prefix_ns += self.home.read(layer, tokens, self.slots[layer, : self.length])
        self.traffic.prefix_bytes += len(self.buffers) * self.length * self.layout.row_bytes


def _require_table(table: IntArray, num_tokens: int) -> None:
    """Native code follows it unchecked."""
    if table.dtype != np.int64 or table.ndim != 1 or not table.flags.c_contiguous or table.size < num_tokens:
        raise GeometryError(
            f"placement: table is {table.dtype} of shape {table.shape}; it must be int64 of one dimension, contiguous, "
            f"a row for each of {num_tokens} tokens"
        )


def layer_counters(batch: Sequence[RequestKv]) -> list[Counters]:
    """Counters of each layer, summed over the requests of a batch that share a number of layers."""
    return [sum(layer, Counters()) for layer in zip(*([b.counters for b in r.buffers] for r in batch), strict=True)]


def breakeven_steps(length: int, misses_per_step: float) -> float:
    """Steps after which fetching misses has moved more bytes than one copy of the whole prefix; inf without misses."""
    return length / misses_per_step if misses_per_step else inf

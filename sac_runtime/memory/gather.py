"""Bringing a step's misses into slots, for stores that have no way of their own. Knows plans and the seam; knows no memory.

The ways, all behind `SlotGather`: MappedGather (mapped.py) plans and gathers in one native call; TwoStepGather plans, then reads
straight into slots or, of a store that can only read_rows, into a staging array that is then copied. Callers take `slot_gather`.
"""

from collections.abc import Callable

import numpy as np

from sac_runtime.memory.store import KvStore, Plan, SlotGather, StepPlanner
from sac_runtime.rows.layout import ByteArray, IntArray
from sac_runtime.rows.placement import LayerRows

ReadIntoSlots = Callable[[IntArray, ByteArray, IntArray], int]
"""(rows, buffer, slots): row rows[i] into buffer[slots[i]]; returns elapsed ns by the store's clock."""


class TwoStepGather:
    """Plans, then reads what is missing; nothing is read where nothing is."""

    def __init__(self, read: ReadIntoSlots, buffer: StepPlanner, slots: ByteArray) -> None:
        self._read = read
        self._buffer = buffer
        self._slots = slots

    def fetch(self, topk: IntArray, length: int, place: LayerRows) -> tuple[Plan, int]:
        """As SlotGather.fetch."""
        plan = self._buffer.plan(topk, length)
        if not plan.misses:
            return plan, 0
        try:
            return plan, self._read(place.rows(plan.miss_tokens), self._slots, plan.victim_slots)
        except BaseException:
            self._buffer.forget()
            raise


def slot_gather(store: KvStore, buffer: StepPlanner, slots: ByteArray) -> SlotGather:
    """The gather of `store` for one hot buffer and its slots: its own where it has one. slots: as KvStore.slot_gather."""
    return store.slot_gather(buffer, slots) or TwoStepGather(_staged(store), buffer, slots)


def _staged(store: KvStore) -> ReadIntoSlots:
    def read(rows: IntArray, buffer: ByteArray, slots: IntArray) -> int:
        staged = np.empty((rows.size, store.layout.row_bytes), np.uint8)
        elapsed_ns = store.read_rows(rows, staged)
        buffer[slots] = staged
        return elapsed_ns

    return read

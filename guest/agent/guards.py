"""What makes a stray read show: NaN in rows that were not chosen, and a canary at each layer's offset.

Knows rows and placements; knows no attention. The reading side needs no truth to notice either.
"""

import hashlib

import numpy as np

from sac_runtime.memory.store import KvStore
from sac_runtime.rows.layout import ByteArray, IntArray, KvLayout
from sac_runtime.rows.placement import LayerFirst, RowTable

POISON_BYTE = 0xFF  # NaN in e4m3, bf16 and fp32 alike


def poison_rows(store: KvStore, rows: IntArray) -> None:
    """Overwrite rows with NaN in every value and scale. rows: (n,) int64."""
    store.write_rows(rows, np.full((rows.size, store.layout.row_bytes), POISON_BYTE, np.uint8))


def poison_all_but(store: KvStore, placement: LayerFirst, layer: int, chosen: IntArray) -> None:
    """Poison the rows of a layer that a step did not choose. chosen: (k,) int64 tokens. Source: FlashMLA's tests."""
    others = np.ones(placement.tokens_capacity, bool)
    others[chosen] = False
    poison_rows(store, placement.rows(layer, np.flatnonzero(others)))


def canary_row(layout: KvLayout, layer: int) -> ByteArray:
    """A row, (1, layout.row_bytes) uint8, that no other layer has."""
    return np.frombuffer(hashlib.shake_128(b"layer %d" % layer).digest(layout.row_bytes), np.uint8).reshape(1, -1)


def write_canaries(store: KvStore, placement: LayerFirst | RowTable, token: int, num_layers: int) -> None:
    """Give every layer its canary at `token`, a row kept free for it in each layer."""
    for layer in range(num_layers):
        store.write_rows(placement.rows(layer, np.array([token])), canary_row(store.layout, layer))


def layers_with_wrong_canary(
    store: KvStore, placement: LayerFirst | RowTable, token: int, num_layers: int
) -> list[int]:
    """Layers whose row at `token` is not their canary: their offset, stride or store is wrong. Empty if all is well."""
    held = np.empty((1, store.layout.row_bytes), np.uint8)
    wrong = []
    for layer in range(num_layers):
        store.read_rows(placement.rows(layer, np.array([token])), held)
        if not np.array_equal(held, canary_row(store.layout, layer)):
            wrong.append(layer)
    return wrong

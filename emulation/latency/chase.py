"""A random cycle through all rows of a store, for reads that depend on one another. Knows rows, no time."""

import numpy as np

from sac_runtime.memory.store import KvStore

_ROWS_A_WRITE = 1 << 14


def write_chain(store: KvStore, seed: int = 0) -> None:
    """Put into the first 8 bytes of each row the number of the next row of one random cycle; the rest becomes zeros."""
    order = np.random.default_rng(seed).permutation(store.num_rows)
    following = np.empty(store.num_rows, np.int64)
    following[order] = np.roll(order, -1)
    for first in range(0, store.num_rows, _ROWS_A_WRITE):
        rows = np.arange(first, min(first + _ROWS_A_WRITE, store.num_rows), dtype=np.int64)
        values = np.zeros((rows.size, store.layout.row_bytes), np.uint8)
        values[:, :8] = following[rows].view(np.uint8).reshape(-1, 8)
        store.write_rows(rows, values)

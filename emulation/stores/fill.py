"""Filling a store with rows that are told by their numbers. Knows the seam alone."""

from collections.abc import Callable

import numpy as np

from sac_runtime.memory.store import KvStore
from sac_runtime.rows.layout import ByteArray, IntArray

_ROWS_PER_WRITE = 1 << 14


def fill_rows(store: KvStore, values: Callable[[IntArray], ByteArray]) -> None:
    """Write every row of `store`. values: gives (n, row_bytes) uint8 for rows (n,) int64."""
    for first in range(0, store.num_rows, _ROWS_PER_WRITE):
        rows = np.arange(first, min(first + _ROWS_PER_WRITE, store.num_rows), dtype=np.int64)
        store.write_rows(rows, values(rows))

"""Reads that depend on one another: each row names the next, so that only latency counts. Knows rows, paths and clocks."""

import numpy as np

from emulation.errors import InputError
from emulation.stores.fill import fill_rows
from emulation.timing import native
from emulation.timing.clock import Clock
from emulation.timing.path import LinkPath
from sac_runtime.label import Label
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.memory.store import KvStore
from sac_runtime.rows.layout import ByteArray, IntArray


def write_chain(store: KvStore, seed: int = 0) -> None:
    """Put into the first 8 bytes of each row the number of the next row of one random cycle; the rest becomes zeros."""
    order = np.random.default_rng(seed).permutation(store.num_rows)
    following = np.empty(store.num_rows, np.int64)
    following[order] = np.roll(order, -1)

    def links(rows: IntArray) -> ByteArray:
        values = np.zeros((rows.size, store.layout.row_bytes), np.uint8)
        values[:, :8] = following[rows].view(np.uint8).reshape(-1, 8)
        return values

    fill_rows(store, links)


def chase(store: MappedStore, path: LinkPath, clock: Clock, row: int, num_reads: int) -> float:
    """Mean ns of `num_reads` dependent reads along the chain (`write_chain`) that starts at `row`, each as if `store` lay at
    the far end of `path`: reckoned on a VirtualClock, stalled on a WallClock. Raises InputError for a row outside, or where
    the chain leads outside."""
    if not 0 <= row < store.num_rows or num_reads < 1:
        raise InputError(f"chase: row={row}, num_reads={num_reads} need a store that holds the row, and a read")
    latency_ns = path.profile.latency_ns()
    if clock.label is Label.MODELLED:
        return clock.stall(clock.now_ns(), round(num_reads * latency_ns)) / num_reads
    stride_bytes = store.layout.stride_bytes
    elapsed_ns, late, _ = native.chase(store.rows_address, store.num_rows, stride_bytes, row, num_reads, latency_ns)
    clock.count_late(late)
    return elapsed_ns / num_reads

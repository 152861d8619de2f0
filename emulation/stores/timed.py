"""A store with modelled time: moves the real bytes, then lets the clock stand where the profile says. Knows paths and clocks.

Reads and writes take what the path takes, whole lines counted; `flush` is free and the next `fence` waits one write latency
for it; `invalidate` is free, since every read is charged as one that comes from memory. On a WallClock the store stalls for
what the real access did not take; an access that was slower than the model is counted (`clock.error`), never shortened."""

from functools import lru_cache
from math import ceil
from types import TracebackType
from typing import Self

import numpy as np

from emulation.errors import InputError
from emulation.timing import native
from emulation.timing.clock import Clock
from emulation.timing.links.booked import Reservations
from emulation.timing.links.fabric import OthersLoad
from emulation.timing.path import LinkPath, Transfer
from sac_runtime.label import Label
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.memory.store import KvStore, SlotReader
from sac_runtime.rows.layout import LINE_BYTES, ByteArray, IntArray, KvLayout

PART_BYTES = 256 << 10  # assumed: readers on a wall clock take turns on a link by parts of this size


class TimedStore:
    """`store` as if it lay at the far end of `path`.

    links: None if nobody else uses the path's links; else where this store and others book them. Returned times are those
    of `clock`, and so is the label: modelled on a VirtualClock, injected on a WallClock."""

    def __init__(self, store: KvStore, path: LinkPath, clock: Clock, links: Reservations | None = None) -> None:
        self.path = path
        self.clock = clock
        self._store = store
        self._slot_reader = store if isinstance(store, SlotReader) else None
        self._links = links
        self._lines = [] if links is None else [links.line(name) for name in path.links]
        self._others = OthersLoad(len(self._lines))
        self._row_bytes = store.layout.lines_per_row * LINE_BYTES
        self._idle_ns = lru_cache(maxsize=4096)(lambda *transfer: path.idle_ns(Transfer(*transfer)))
        self._unfenced = False

    @property
    def layout(self) -> KvLayout:
        return self._store.layout

    @property
    def num_rows(self) -> int:
        return self._store.num_rows

    @property
    def label(self) -> Label:
        return self.clock.label

    @property
    def rows_offset(self) -> int:
        return self._store.rows_offset

    @property
    def size_bytes(self) -> int:
        return self._store.size_bytes

    def read_rows(self, rows: IntArray, out: ByteArray) -> int:
        """As KvStore.read_rows; each row is one piece."""
        begin_ns = self.clock.now_ns()
        self._store.read_rows(rows, out)
        return self._charge(begin_ns, rows.shape[0], rows.shape[0] * self._row_bytes, False)

    def read_rows_into_slots(self, rows: IntArray, buffer: ByteArray, slots: IntArray) -> int:
        """As MappedStore.read_rows_into_slots, by way of a copy where the store below does not offer it."""
        begin_ns = self.clock.now_ns()
        if self._slot_reader is not None:
            self._slot_reader.read_rows_into_slots(rows, buffer, slots)
        else:
            staged = np.empty((rows.shape[0], self.layout.row_bytes), np.uint8)
            self._store.read_rows(rows, staged)
            buffer[slots] = staged
        return self._charge(begin_ns, rows.shape[0], rows.shape[0] * self._row_bytes, False)

    def write_rows(self, rows: IntArray, values: ByteArray) -> int:
        """As KvStore.write_rows; each row is one piece."""
        begin_ns = self.clock.now_ns()
        self._store.write_rows(rows, values)
        return self._charge(begin_ns, rows.shape[0], rows.shape[0] * self._row_bytes, True)

    def read_bytes(self, offset: int, out: ByteArray) -> None:
        """As KvStore.read_bytes; one piece."""
        begin_ns = self.clock.now_ns()
        self._store.read_bytes(offset, out)
        self._charge(begin_ns, 1, _line_bytes(offset, out.size), False)

    def write_bytes(self, offset: int, values: ByteArray) -> None:
        """As KvStore.write_bytes; one piece."""
        begin_ns = self.clock.now_ns()
        self._store.write_bytes(offset, values)
        self._charge(begin_ns, 1, _line_bytes(offset, values.size), True)

    def flush(self, offset: int, size_bytes: int) -> None:
        """As KvStore.flush; its time is the next fence's."""
        self._store.flush(offset, size_bytes)
        self._unfenced = True

    def invalidate(self, offset: int, size_bytes: int) -> None:
        """As KvStore.invalidate; free."""
        self._store.invalidate(offset, size_bytes)

    def fence(self) -> None:
        """As KvStore.fence; takes one write latency after a flush."""
        begin_ns = self.clock.now_ns()
        self._store.fence()
        if self._unfenced:
            self._unfenced = False
            self.clock.stall(begin_ns, round(self.path.profile.latency_ns(write=True)))

    def chase(self, row: int, num_reads: int) -> float:
        """Mean ns of `num_reads` dependent reads along a chain of rows (emulation.latency.chase) that starts at `row`.
        Raises InputError where the store below is not mapped memory, or the chain leads outside."""
        store = self._store
        if not isinstance(store, MappedStore) or not 0 <= row < store.num_rows or num_reads < 1:
            raise InputError(f"chase: row={row}, num_reads={num_reads} need a MappedStore that holds the row")
        latency_ns = self.path.profile.latency_ns()
        if self.label is Label.MODELLED:
            return self.clock.stall(self.clock.now_ns(), round(num_reads * latency_ns)) / num_reads
        stride_bytes = store.layout.stride_bytes
        elapsed_ns, late, _ = native.chase(store.rows_address, store.num_rows, stride_bytes, row, num_reads, latency_ns)
        self.clock.count_late(late)
        return elapsed_ns / num_reads

    def close(self) -> None:
        """Close the store below; the links belong to whoever made them."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _charge(self, begin_ns: int, pieces: int, num_bytes: int, write: bool) -> int:
        if not pieces or not num_bytes:
            return self.clock.stall(begin_ns, 0)
        if self._links is None:
            return self.clock.stall(begin_ns, self._idle_ns(pieces, num_bytes, write))
        return self.clock.stall(begin_ns, self._shared_ns(self._links, begin_ns, Transfer(pieces, num_bytes, write)))

    def _shared_ns(self, links: Reservations, begin_ns: int, transfer: Transfer) -> int:
        """Time of a transfer among others. A wall clock books it part by part, so that others get their turns."""
        num_parts = 1 if self.label is Label.MODELLED else -(-transfer.num_bytes // PART_BYTES)
        part = [ceil(work_ns / num_parts) for work_ns in self.path.works_ns(transfer)]
        load = self._others.update(
            begin_ns, links.busy_ns(self._lines, begin_ns), [num_parts * own_ns for own_ns in part]
        )
        reader_ns, late_ns = self.path.loaded_ns(transfer, load)
        part[0] = ceil(reader_ns / num_parts)
        served_ns = begin_ns
        for _ in range(num_parts):
            self.clock.wait_until(served_ns)
            served_ns = links.book(self._lines, served_ns, part)
        return max(self.path.profile.floor_ns, served_ns - begin_ns + late_ns)


def _line_bytes(offset: int, size_bytes: int) -> int:
    """Bytes of the lines that [offset, offset + size_bytes) touches."""
    if not size_bytes:
        return 0
    return ((offset + size_bytes - 1) // LINE_BYTES - offset // LINE_BYTES + 1) * LINE_BYTES

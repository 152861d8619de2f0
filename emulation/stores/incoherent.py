"""A host's cache that nothing keeps coherent: what CXL 2.0 memory shared between hosts looks like to each of them.

Knows lines, not pools or time. Each host wraps the one memory in an IncoherentStore of its own. A line that the host has read stays
as it was then until invalidated; a line that it has written stays in its cache until flushed. Both take effect at the fence, no
sooner. There lines reach `memory` one by one, each in a write_bytes of its own, in an order drawn from the seed; a memory that
raises can so stop the host between two of them. On top a seeded cache may evict lines (writing dirty ones back, as real caches do
at any time), prefetch lines that nobody asked for, carry out flushes before their fence, and write a line in two pieces. It may
have a size: sets and ways, the victim drawn from the seed. Software that flushes and invalidates right does not notice; software
that forgets one, or its order, reads old bytes, or is not heard.

Instructions, by Intel's SDM (volume 2: CLFLUSH, CLFLUSHOPT, CLWB, MOVNTDQ; volume 3, 11.4.4 and 12.2):

    clwb        the line is written back by the next fence, in any order, and stays in the cache
    clflushopt  the same, and the line is dropped
    clflush     the line is written back and dropped at once: it is ordered with stores and other clflushes
    movnt       a whole line written past the cache: it is in memory by the next fence, or at any time before"""

import ctypes
import random
from collections import deque
from typing import Literal

import numpy as np

from emulation.errors import InputError
from emulation.stores.wrapper import WrapperStore
from sac_runtime import native
from sac_runtime.errors import RowRangeError
from sac_runtime.label import Label
from sac_runtime.memory.arrays import require_packed
from sac_runtime.memory.mapped import DEFAULT_PREFETCH_ROWS, MappedStore
from sac_runtime.memory.store import KvStore
from sac_runtime.rows.layout import LINE_BYTES, ByteArray, IntArray

RECENT_RANGES = 64  # evictions choose among the ranges touched last
WORD_BYTES = 8  # what reaches memory whole

FlushInstruction = Literal["clwb", "clflushopt", "clflush"]


class IncoherentStore(WrapperStore):
    """One host's view of `memory` through a cache of its own.

    evict, prefetch: odds that an access evicts some line, or loads the line after it as well. flush_early: odds that a flush takes
    effect on a line at once, and so not on what is written there between it and the fence. speculate: odds that an access loads any
    line of the memory besides. tear: odds that a line reaches memory in two pieces, cut between words of 8 bytes. All drawn from
    `seed`. ways: lines of each of `sets` sets that the cache has room for, 0 for a cache without bounds. flush_by, invalidate_by:
    the instructions; streams: whether rows that are whole lines are written by movnt.

    It claims no time: reads and writes return 0 and the label is functional; what counts time goes outside. Closing it closes the
    memory, for all its hosts; what was not written back is gone."""

    def __init__(
        self,
        memory: KvStore,
        *,
        seed: int = 0,
        evict: float = 0.0,
        prefetch: float = 0.0,
        flush_early: float = 0.0,
        speculate: float = 0.0,
        tear: float = 0.0,
        sets: int = 64,
        ways: int = 0,
        flush_by: FlushInstruction = "clwb",
        invalidate_by: Literal["clflushopt", "clflush"] = "clflushopt",
        streams: bool = False,
    ) -> None:
        super().__init__(memory)
        if sets < 1 or ways < 0:
            raise InputError(
                f"incoherent store: sets={sets} must be at least 1, and ways={ways} at least 0 (0: no bounds)"
            )
        self._random = random.Random(seed)
        self._evict, self._prefetch, self._flush_early = evict, prefetch, flush_early
        self._speculate, self._tear = speculate, tear
        self._sets, self._ways = sets, ways
        self._flush_by, self._invalidate_by, self._streams = flush_by, invalidate_by, streams
        num_lines = -(-self.size_bytes // LINE_BYTES)
        self._held = np.zeros(num_lines, np.bool_)
        self._dirty = np.zeros(num_lines, np.bool_)
        self._bytes = np.zeros(num_lines * LINE_BYTES, np.uint8)
        self._rows = np.lib.stride_tricks.as_strided(
            self._bytes[self.rows_offset :], (self.num_rows, self.layout.row_bytes), (self.layout.stride_bytes, 1)
        )
        self._to_flush: list[slice] = []
        self._to_invalidate: list[slice] = []
        self._recent: deque[slice] = deque(maxlen=RECENT_RANGES)

    @property
    def label(self) -> Label:
        return Label.FUNCTIONAL

    @property
    def num_dirty_lines(self) -> int:
        """Lines written and not yet in memory."""
        return int(self._dirty.sum())

    def read_rows(self, rows: IntArray, out: ByteArray) -> int:
        """As KvStore.read_rows, but returns 0: no time is claimed."""
        self._load_rows(rows)
        require_packed("incoherent", "out", out, (rows.size, self.layout.row_bytes))
        layout, first_row = self.layout, native.address(self._bytes) + self.rows_offset
        self._gather(first_row, layout.stride_bytes, layout.row_bytes, rows, native.address(out), None)
        self._make_room()
        return 0

    def write_rows(self, rows: IntArray, values: ByteArray) -> int:
        """As KvStore.write_rows, but returns 0: no time is claimed."""
        self._load_rows(rows)
        self._rows[rows] = values
        for row in rows.tolist():
            lines = self._lines_of_row(row)
            self._mark_written(lines)
            if self._streams and (lines.stop - lines.start) * LINE_BYTES == self.layout.stride_bytes:
                self._to_invalidate.append(lines)
        self._make_room()
        return 0

    def read_bytes(self, offset: int, out: ByteArray) -> None:
        """As KvStore.read_bytes."""
        self._load(self._lines(offset, out.size))
        out[:] = self._bytes[offset : offset + out.size]
        self._make_room()

    def write_bytes(self, offset: int, values: ByteArray) -> None:
        """As KvStore.write_bytes."""
        lines = self._lines(offset, values.size)
        self._load(lines)
        self._bytes[offset : offset + values.size] = values
        self._mark_written(lines)
        self._make_room()

    def flush(self, offset: int, size_bytes: int) -> None:
        """As KvStore.flush; by clwb the lines stay in the cache, clean."""
        lines = self._lines(offset, size_bytes)
        if self._flush_by == "clflush":
            self._drop(lines)
            return
        if self._flush_by == "clflushopt":
            self._to_invalidate.append(lines)
        self._to_flush += self._without_early(lines) if self._flush_early else [lines]

    def invalidate(self, offset: int, size_bytes: int) -> None:
        """As KvStore.invalidate; a dirty line is written back first, as clflush does."""
        lines = self._lines(offset, size_bytes)
        if self._invalidate_by == "clflush":
            self._drop(lines)
        else:
            self._to_invalidate.append(lines)

    def fence(self) -> None:
        """As KvStore.fence."""
        self._write_back(*self._to_flush, *self._to_invalidate)
        for lines in self._to_invalidate:
            self._held[lines] = False
        self._to_flush, self._to_invalidate = [], []

    def lose_cache(self) -> None:
        """The host loses power: what it had not written back is gone."""
        self._held[:] = self._dirty[:] = False
        self._to_flush, self._to_invalidate = [], []

    def write_back_everything(self) -> None:
        """The process is gone, its host is not: sooner or later the cache writes all back."""
        self._write_back(slice(0, len(self._dirty)))

    def _lines(self, offset: int, size_bytes: int) -> slice:
        if not (offset >= 0 and size_bytes >= 0 and offset + size_bytes <= self.size_bytes):
            raise RowRangeError(
                f"incoherent store: bytes [{offset}, {offset + size_bytes}) lie outside [0, {self.size_bytes})"
            )
        return slice(offset // LINE_BYTES, -(-(offset + size_bytes) // LINE_BYTES))

    def _lines_of_row(self, row: int) -> slice:
        return self._lines(self.rows_offset + row * self.layout.stride_bytes, self.layout.row_bytes)

    def _mark_written(self, lines: slice) -> None:
        self._held[lines] = self._dirty[lines] = True

    def _load_rows(self, rows: IntArray) -> None:
        outside = np.flatnonzero((rows < 0) | (rows >= self.num_rows))
        if outside.size:
            raise RowRangeError(
                f"incoherent store: rows[{outside[0]}]={rows[outside[0]]} lies outside [0, {self.num_rows})"
            )
        if self._evict or self._prefetch or self._speculate:
            for row in rows.tolist():
                self._load(self._lines_of_row(row))
        else:
            self._fill(self._lines_of_rows(rows))

    def _lines_of_rows(self, rows: IntArray) -> IntArray:
        """Lines of all rows, (n,) int64, some of them several times."""
        start = self.rows_offset + rows * self.layout.stride_bytes
        first, last = start // LINE_BYTES, (start + self.layout.row_bytes - 1) // LINE_BYTES
        within = np.arange(int((last - first).max(initial=0)) + 1)
        lines: IntArray = np.minimum(first[:, np.newaxis] + within, last[:, np.newaxis]).ravel()
        return lines

    def _fill(self, lines: IntArray) -> None:
        """Fetch those of many lines that the cache does not hold."""
        missing = lines[~self._held[lines]]
        if not missing.size:
            return
        if type(self.store) is MappedStore:  # all at once; other memories are asked line by line, each a step of theirs
            self._gather(self.store.address, LINE_BYTES, LINE_BYTES, missing, native.address(self._bytes), missing)
            self._held[missing] = True
            return
        missing = np.unique(missing)
        for run in np.split(missing, np.flatnonzero(np.diff(missing) != 1) + 1):
            self._load(slice(int(run[0]), int(run[-1]) + 1))

    def _gather(self, start: int, stride: int, size: int, rows: IntArray, packed: int, slots: IntArray | None) -> None:
        """Copy pieces of `size` bytes that lie `stride` apart from address `start`: rows[i] to place slots[i], or i."""
        numbers = np.ascontiguousarray(rows, np.int64)
        call = native.RowsCall(
            store=start,
            num_rows=len(self._held) * LINE_BYTES // size + 1,
            stride=stride,
            row_bytes=size,
            rows=native.address(numbers),
            n=numbers.size,
            packed=packed,
            slots=None if slots is None else native.address(numbers),
            num_slots=len(self._held),
            prefetch=DEFAULT_PREFETCH_ROWS,
            copy=native.best_copy(),
        )
        outside = native.load().sac_gather(ctypes.addressof(call))
        assert not outside  # rows were checked before

    def _make_room(self) -> None:
        """Evict lines, drawn from the seed, of sets that hold more than their ways."""
        if not self._ways:
            return
        held = np.flatnonzero(self._held)
        for number in np.flatnonzero(np.bincount(held % self._sets, minlength=self._sets) > self._ways).tolist():
            members = held[held % self._sets == number].tolist()
            for line in self._random.sample(members, len(members) - self._ways):
                self._drop(slice(line, line + 1))

    def _load(self, lines: slice) -> None:
        """Fetch the lines that the cache does not hold; those that it holds stay as they are, however old."""
        if self._prefetch and self._random.random() < self._prefetch:
            lines = slice(lines.start, min(lines.stop + 1, len(self._held)))
        if self._speculate and self._random.random() < self._speculate:
            line = self._random.randrange(len(self._held))
            self._load_missing(slice(line, line + 1))
        if self._evict and self._recent and self._random.random() < self._evict:
            self._evict_one_of(self._random.choice(self._recent))
        self._load_missing(lines)
        if self._evict:
            self._recent.append(lines)

    def _load_missing(self, lines: slice) -> None:
        missing = ~self._held[lines]
        if missing.any():
            fetched = self._fetch(lines)
            self._lines_view(lines)[missing] = fetched[missing]
            self._held[lines] = True

    def _fetch(self, lines: slice) -> ByteArray:
        start, stop = lines.start * LINE_BYTES, min(lines.stop * LINE_BYTES, self.size_bytes)
        fetched = np.zeros((lines.stop - lines.start) * LINE_BYTES, np.uint8)
        self.store.read_bytes(start, fetched[: stop - start])
        return fetched.reshape(-1, LINE_BYTES)

    def _evict_one_of(self, lines: slice) -> None:
        line = self._random.randrange(lines.start, max(lines.stop, lines.start + 1))
        self._drop(slice(line, line + 1))

    def _drop(self, lines: slice) -> None:
        self._write_back(lines)
        self._held[lines] = False

    def _without_early(self, lines: slice) -> list[slice]:
        """Write some of the lines back now. Returns the others."""
        late = []
        for line in range(lines.start, lines.stop):
            one = slice(line, line + 1)
            if self._random.random() < self._flush_early:
                self._write_back(one)
            else:
                late.append(one)
        return late

    def _write_back(self, *ranges: slice) -> None:
        """Put the dirty lines into memory, in any order; should memory raise, the rest stay dirty."""
        due = {line for lines in ranges for line in (np.flatnonzero(self._dirty[lines]) + lines.start).tolist()}
        for line in self._random.sample(sorted(due), len(due)):
            self._write_line(line)

    def _write_line(self, line: int) -> None:
        start, stop = line * LINE_BYTES, min((line + 1) * LINE_BYTES, self.size_bytes)
        if self._tear and self._random.random() < self._tear:
            cut = min(start + WORD_BYTES * self._random.randrange(1, LINE_BYTES // WORD_BYTES), stop)
            pieces = [(start, cut), (cut, stop)]
            self._random.shuffle(pieces)
            for piece in pieces:
                self._write_piece(*piece)
        else:
            self._write_piece(start, stop)
        self._dirty[line] = False

    def _write_piece(self, start: int, stop: int) -> None:
        self.store.write_bytes(start, self._bytes[start:stop])

    def _lines_view(self, lines: slice) -> ByteArray:
        return self._bytes[lines.start * LINE_BYTES : lines.stop * LINE_BYTES].reshape(-1, LINE_BYTES)

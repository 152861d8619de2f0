"""A host's cache that nothing keeps coherent: what CXL 2.0 memory shared between hosts looks like to each of them.

Knows lines, not pools or time. Each host wraps the one memory in an IncoherentStore of its own. A line that the host has read stays
as it was then until invalidated; a line that it has written stays in its cache until flushed. Both take effect at the fence, no
sooner. There lines reach `memory` one by one, each in a write_bytes of its own, in an order drawn from the seed; a memory that
raises can so stop the host between two of them. On top a seeded cache may evict lines (writing dirty ones back, as real caches do
at any time), prefetch neighbours that nobody asked for, and carry out flushes before their fence. Software that flushes and
invalidates right does not notice; software that forgets one, or its order, reads old bytes, or is not heard. It is a model of what
may go wrong, not of a real cache: sizes, ways and replacement are not in it."""

import random
from collections import deque

import numpy as np

from emulation.stores.wrapper import WrapperStore
from sac_runtime.errors import RowRangeError
from sac_runtime.label import Label
from sac_runtime.memory.store import KvStore
from sac_runtime.rows.layout import LINE_BYTES, ByteArray, IntArray

RECENT_RANGES = 64  # evictions choose among the ranges touched last


class IncoherentStore(WrapperStore):
    """One host's view of `memory` through a cache of its own.

    evict, prefetch: odds that an access evicts some line, or loads the line after it as well. flush_early: odds that a flush takes
    effect on a line at once, and so not on what is written there between it and the fence. All drawn from `seed`. It claims no
    time: reads and writes return 0 and the label is functional; what counts time goes outside. Closing it closes the memory, for
    all its hosts; what was not written back is gone."""

    def __init__(
        self, memory: KvStore, *, seed: int = 0, evict: float = 0.0, prefetch: float = 0.0, flush_early: float = 0.0
    ) -> None:
        super().__init__(memory)
        self._random = random.Random(seed)
        self._evict, self._prefetch, self._flush_early = evict, prefetch, flush_early
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
        out[:] = self._rows[rows]
        return 0

    def write_rows(self, rows: IntArray, values: ByteArray) -> int:
        """As KvStore.write_rows, but returns 0: no time is claimed."""
        self._load_rows(rows)
        self._rows[rows] = values
        for row in rows.tolist():
            self._mark_written(self._lines_of_row(row))
        return 0

    def read_bytes(self, offset: int, out: ByteArray) -> None:
        """As KvStore.read_bytes."""
        self._load(self._lines(offset, out.size))
        out[:] = self._bytes[offset : offset + out.size]

    def write_bytes(self, offset: int, values: ByteArray) -> None:
        """As KvStore.write_bytes."""
        lines = self._lines(offset, values.size)
        self._load(lines)
        self._bytes[offset : offset + values.size] = values
        self._mark_written(lines)

    def flush(self, offset: int, size_bytes: int) -> None:
        """As KvStore.flush; the lines stay in the cache, clean."""
        lines = self._lines(offset, size_bytes)
        self._to_flush += self._without_early(lines) if self._flush_early else [lines]

    def invalidate(self, offset: int, size_bytes: int) -> None:
        """As KvStore.invalidate; a dirty line is written back first, as clflush does."""
        self._to_invalidate.append(self._lines(offset, size_bytes))

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
        for row in rows.tolist():
            self._load(self._lines_of_row(row))

    def _load(self, lines: slice) -> None:
        """Fetch the lines that the cache does not hold; those that it holds stay as they are, however old."""
        if self._prefetch and self._random.random() < self._prefetch:
            lines = slice(lines.start, min(lines.stop + 1, len(self._held)))
        if self._evict and self._recent and self._random.random() < self._evict:
            self._evict_one_of(self._random.choice(self._recent))
        missing = ~self._held[lines]
        if missing.any():
            fetched = self._fetch(lines)
            self._lines_view(lines)[missing] = fetched[missing]
            self._held[lines] = True
        if self._evict:
            self._recent.append(lines)

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
        self.store.write_bytes(start, self._bytes[start:stop])
        self._dirty[line] = False

    def _lines_view(self, lines: slice) -> ByteArray:
        return self._bytes[lines.start * LINE_BYTES : lines.stop * LINE_BYTES].reshape(-1, LINE_BYTES)

"""Would it also be right where nothing keeps caches coherent? Read off one run on memory that is: no schedule need be hit.

Knows lines and who wrote, flushed, fenced, invalidated and read them; knows no pools. Hosts share one coherent memory, each through
a view of its own, so every read gives the newest bytes. Beside each line the monitor keeps when it was written, since when it has
been in memory for certain, and since when each host may trust its own copy. It reports every read whose value could have been
another one:

    unflushed   the writer has not flushed and fenced the line since it wrote it: memory may still hold what was there before
    stale       the reader has not invalidated and fenced the line since it came to memory: its cache may hold what was there
                before, by an earlier read or by a prefetch that nobody asked for
    unordered   the reader has seen a later write of that writer, which might have come to memory first: this line was not there for
                certain when that one was written

    monitor = RobustnessMonitor(memory)
    writer, reader = monitor.host("a"), monitor.host("b")
    ...                                             # any program over KvStore, one host after the other
    assert not monitor.reports

After PSan (Gorjiara, Xu, Demsky, PLDI 2022), which asks the same of persistent memory: is the run after a crash one that strict
persistency allows? What it cannot say: whether a program that tolerates old bytes, as readers of a line in the act of being written
do, does so rightly. That is what schedules are for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emulation.stores.wrapper import WrapperStore
from sac_runtime.memory.store import KvStore
from sac_runtime.rows.layout import LINE_BYTES, ByteArray, IntArray

Reason = Literal["unflushed", "stale", "unordered"]
NOBODY = -1


@dataclass(frozen=True)
class Report:
    """One read that could have given other bytes. offset: of the line; steps count all accesses of all hosts, from 1."""

    reason: Reason
    part: str
    offset: int
    writer: str
    written_at: int
    reader: str
    read_at: int

    def __str__(self) -> str:
        wants = {
            "unflushed": "had not been flushed and fenced by its writer",
            "stale": "had not been invalidated and fenced by its reader since it came to memory",
            "unordered": "was not in memory for certain when a later write, which the reader had seen, was made",
        }
        return (
            f"{self.reason}: step {self.read_at}, {self.reader} reads {self.part}, the line at {self.offset}, which {self.writer} "
            f"wrote at step {self.written_at}; it {wants[self.reason]}"
        )


class RobustnessMonitor:
    """Watches all hosts of `memory`. part_of: what to call the part of memory at a byte offset. reports: each line, writer's step
    and reason once per reader."""

    def __init__(self, memory: KvStore, part_of: Callable[[int], str] = lambda offset: "memory") -> None:
        self.memory = memory
        self.part_of = part_of
        self.reports: list[Report] = []
        self.step = 0
        self.names: list[str] = []
        num_lines = -(-memory.size_bytes // LINE_BYTES)
        self.writers: NDArray[np.int16] = np.full(num_lines, NOBODY, np.int16)
        self.written_at = np.zeros(num_lines, np.int64)
        self.in_memory_at = np.zeros(num_lines, np.int64)  # 0: not for certain
        self._known: set[tuple[Reason, int, int, int]] = set()

    def host(self, name: str) -> "RobustStore":
        """The view of one host more."""
        self.names.append(name)
        return RobustStore(self, len(self.names) - 1)

    def report(self, reason: Reason, lines: IntArray, reader: int) -> None:
        """Note reads of `lines` by `reader`."""
        for line in lines.tolist():
            key = (reason, line, int(self.written_at[line]), reader)
            if key not in self._known:
                self._known.add(key)
                offset = line * LINE_BYTES
                writer = self.names[self.writers[line]]
                written_at = int(self.written_at[line])
                self.reports.append(
                    Report(reason, self.part_of(offset), offset, writer, written_at, self.names[reader], self.step)
                )


class RobustStore(WrapperStore):
    """One host's view of the memory. Made by RobustnessMonitor.host()."""

    def __init__(self, monitor: RobustnessMonitor, host: int) -> None:
        super().__init__(monitor.memory)
        self._monitor = monitor
        self._host = host
        self._fresh_at = np.zeros(len(monitor.writers), np.int64)  # last invalidated and fenced
        self._seen: dict[int, int] = {}  # writer -> step of the latest of its writes that this host has read
        self._to_flush: list[tuple[int, IntArray]] = []  # (step, lines), until the fence
        self._to_invalidate: list[IntArray] = []
        lines_per_row = -(-self.layout.row_bytes // LINE_BYTES) + 1
        self._within_row = np.arange(lines_per_row, dtype=np.int64)

    def read_rows(self, rows: IntArray, out: ByteArray) -> int:
        elapsed_ns = super().read_rows(rows, out)
        self._read(self._lines_of_rows(rows))
        return elapsed_ns

    def write_rows(self, rows: IntArray, values: ByteArray) -> int:
        elapsed_ns = super().write_rows(rows, values)
        self._write(self._lines_of_rows(rows))
        return elapsed_ns

    def read_bytes(self, offset: int, out: ByteArray) -> None:
        super().read_bytes(offset, out)
        self._read(_lines(offset, out.size))

    def write_bytes(self, offset: int, values: ByteArray) -> None:
        super().write_bytes(offset, values)
        self._write(_lines(offset, values.size))

    def flush(self, offset: int, size_bytes: int) -> None:
        super().flush(offset, size_bytes)
        self._monitor.step += 1
        self._to_flush.append((self._monitor.step, _lines(offset, size_bytes)))

    def invalidate(self, offset: int, size_bytes: int) -> None:
        """As KvStore.invalidate; a dirty line is written back, as clflush does."""
        self.flush(offset, size_bytes)
        self.store.invalidate(offset, size_bytes)
        self._to_invalidate.append(_lines(offset, size_bytes))

    def fence(self) -> None:
        super().fence()
        monitor = self._monitor
        monitor.step += 1
        for step, lines in self._to_flush:
            mine = (monitor.writers[lines] == self._host) & (monitor.written_at[lines] < step)
            written = lines[mine & (monitor.in_memory_at[lines] == 0)]
            monitor.in_memory_at[written] = monitor.step
        for lines in self._to_invalidate:
            self._fresh_at[lines] = monitor.step
        self._to_flush, self._to_invalidate = [], []

    def _write(self, lines: IntArray) -> None:
        monitor = self._monitor
        monitor.step += 1
        monitor.writers[lines] = self._host
        monitor.written_at[lines] = monitor.step
        monitor.in_memory_at[lines] = 0

    def _read(self, lines: IntArray) -> None:
        monitor = self._monitor
        monitor.step += 1
        writers = monitor.writers[lines]
        others = (writers != NOBODY) & (writers != self._host)
        if not others.any():
            return
        lines = lines[others]
        in_memory_at, written_at = monitor.in_memory_at[lines], monitor.written_at[lines]
        writers = writers[others]
        seen = np.array([self._seen.get(writer, 0) for writer in range(len(monitor.names))])[writers]
        unflushed = in_memory_at == 0
        stale = ~unflushed & (self._fresh_at[lines] < in_memory_at)
        unordered = ~unflushed & (written_at < seen) & (in_memory_at > seen)
        for reason, found in (("unflushed", unflushed), ("stale", stale), ("unordered", unordered)):
            if found.any():
                monitor.report(reason, lines[found], self._host)  # type: ignore[arg-type]
        for writer in np.flatnonzero(np.bincount(writers)).tolist():
            latest = int(written_at[writers == writer].max())
            self._seen[writer] = max(self._seen.get(writer, 0), latest)

    def _lines_of_rows(self, rows: IntArray) -> IntArray:
        """Some of them several times."""
        start = self.rows_offset + rows * self.layout.stride_bytes
        last = (start + self.layout.row_bytes - 1) // LINE_BYTES
        lines: IntArray = np.minimum(
            (start // LINE_BYTES)[:, np.newaxis] + self._within_row, last[:, np.newaxis]
        ).ravel()
        return lines


def _lines(offset: int, size_bytes: int) -> IntArray:
    return np.arange(offset // LINE_BYTES, -(-(offset + size_bytes) // LINE_BYTES), dtype=np.int64)

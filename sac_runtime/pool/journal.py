"""A host's journal of published and retired blocks: a ring of 64-byte entries that its host writes and all read.

Knows sequences, slots and what is committed, not what the blocks hold or who finds them.

Entry s lies in slot s % journal_slots. Entries are written and flushed first; then the host's state line, flushed in turn, says
how far the journal reaches. So a batch appears whole or not at all, and readers look at no slot beyond it. The ring never
overwrites the only copy of a live entry: before its slot's turn comes the entry is written again at the head, and that copy
committed."""

import ctypes
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sac_runtime import native
from sac_runtime.errors import FencedError
from sac_runtime.memory.store import KvStore
from sac_runtime.pool.format import MAX_BATCH, PoolGeometry
from sac_runtime.pool.lines import ENTRY, MULTIPLIERS, Lines, read_lines, salt_of, write_lines
from sac_runtime.rows.layout import LINE_BYTES

SCAN_LINES = 8 * MAX_BATCH  # read at once: 512 KiB stays in the cache while it is checked
PEEKED_LINES = 8  # from the head on: most appends are shorter, and of a longer one some line is among them
THERE, OTHER, TORN = 0, 1, 2  # enum sac_verdict of sac.h


class JournalPiece(NamedTuple):
    """What was read of some consecutive sequences.

    entries: those that are there, in order; last_missing: the last sequence that is not, 0 if all are; num_torn: how many of those
    missing are torn, or say what no entry of this host says. The others were overwritten, before or since."""

    entries: Lines
    last_missing: int
    num_torn: int


class Journal:
    """Reads and writes the ring of one host. Knows nothing of commits: callers do."""

    def __init__(self, store: KvStore, geometry: PoolGeometry, pool_id: int, host: int) -> None:
        self.slots = geometry.journal_slots
        self._batch = geometry.batch_entries
        self._store = store
        self._offset = geometry.journal_offset(host)
        self._salt = salt_of(pool_id, host, ENTRY)
        self._check = native.JournalCheck(
            multipliers=native.address(MULTIPLIERS),
            salt=self._salt,
            first_block=host * geometry.blocks_per_host,
            num_blocks=geometry.blocks_per_host,
            block_tokens=geometry.block_tokens,
        )
        self._check_entries = native.load().sac_check_entries

    def write(self, entries: Lines) -> None:
        """Put entries of consecutive sequences in their slots. On return they are in memory."""
        first = int(entries["sequence"][0])
        for start, stop in self._pieces(first, first + len(entries)):
            piece = entries[start - first : stop - first]
            write_lines(self._store, self._slot_offset(start), piece, self._salt)

    def oldest_live(self, head: int) -> int:
        """No entry before this one is live, given the committed head: its slots may be written at any time."""
        return max(1, head + self._batch - self.slots)

    def read(self, first: int, stop: int) -> Iterator[JournalPiece]:
        """Entries first .. stop - 1 in order, piecemeal."""
        for start, end in self._pieces(first, stop):
            entries, verdicts = self._read_slots(start, end)
            if verdicts is None:
                yield JournalPiece(entries, 0, 0)
            else:
                missing = np.flatnonzero(verdicts != THERE)
                yield JournalPiece(
                    entries[verdicts == THERE], start + int(missing[-1]), int(np.count_nonzero(verdicts == TORN))
                )

    def unannounced(self, head: int) -> Lines:
        """Whole entries of sequence `head` and beyond, in order, that lie in the ring though no state line covers them: of an
        append that is on its way or was cut off, or of one whose state line was lost again. Returns (n,) ENTRY."""
        _, end = next(self._pieces(head, head + min(self._batch, PEEKED_LINES)))
        at_head = read_lines(self._store, self._slot_offset(head), end - head, ENTRY)
        if (at_head["sequence"] < head).all():
            return at_head[:0]
        entries = self._whole_from(head, head + self._batch)
        # More than one batch is not on its way at once: then any slot may hold what no state line covers.
        if len(entries) and int(entries["sequence"][-1]) >= head + self._batch - 1:
            entries = self._whole_from(head, head + self.slots)
        return entries

    def _whole_from(self, head: int, stop: int) -> Lines:
        """Whole entries of sequence `head` and beyond, in the slots of sequences head .. stop - 1. Returns (n,) ENTRY, in order."""
        pieces = []
        for start, end in self._pieces(head, stop):
            entries, verdicts = self._read_slots(start, end)
            whole = entries if verdicts is None else entries[verdicts != TORN]
            pieces.append(whole[whole["sequence"] >= head])
        entries = np.concatenate(pieces)
        return entries[np.argsort(entries["sequence"], kind="stable")]

    def _read_slots(self, first: int, stop: int) -> tuple[Lines, NDArray[np.uint8] | None]:
        """What the slots of these sequences hold, one piece. Returns ENTRY, and a verdict on each unless all are there."""
        entries = read_lines(self._store, self._slot_offset(first), stop - first, ENTRY)
        verdicts = np.empty(len(entries), np.uint8)
        not_there = self._check_entries(
            ctypes.addressof(self._check), native.address(entries), len(entries), first, native.address(verdicts)
        )
        return entries, verdicts if not_there else None

    def _slot_offset(self, sequence: int) -> int:
        return self._offset + sequence % self.slots * LINE_BYTES

    def _pieces(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut a range of sequences where the ring ends, and into reads of bearable size."""
        while first < stop:
            end = min(stop, first + SCAN_LINES, (first // self.slots + 1) * self.slots)
            yield first, end
            first = end


class JournalWriter:
    """Appends to the own journal.

    head: next sequence; commit: makes entries, and all before them, part of the journal, the second argument being the new head;
    live_entries: fresh copies of the entries that are live and have sequences in [first, stop)."""

    def __init__(
        self,
        journal: Journal,
        geometry: PoolGeometry,
        head: int,
        commit: Callable[[Lines, int], None],
        live_entries: Callable[[int, int], Lines],
    ) -> None:
        self.head = head
        self._journal = journal
        self._batch = geometry.batch_entries
        self._tail = journal.oldest_live(head)
        self._cut_off = False  # an append ended by an exception: whether the others see it is not known here
        self._commit = commit
        self._live_entries = live_entries

    def append(self, entries: Lines) -> None:
        """Append entries, in order, a batch at a time. On return they are committed. Raises FencedError."""
        self.require_whole()
        for start in range(0, len(entries), self._batch):
            batch = entries[start : start + self._batch]
            while self.head + len(batch) + self._batch > self._tail + self._journal.slots:
                self._carry_one_batch()
            self._put(batch)

    def require_whole(self) -> None:
        """Raise FencedError after an append that an exception cut off."""
        if self._cut_off:
            raise FencedError(
                "pool journal: an append was cut off, so what others see of it is unknown; open the pool again"
            )

    def _carry_one_batch(self) -> None:
        """Free the oldest slots. One batch of slots is always kept free for the copies."""
        live = self._live_entries(self._tail, self._tail + self._batch)
        if len(live):
            self._put(live)
        self._tail += self._batch

    def _put(self, entries: Lines) -> None:
        sequences = np.arange(self.head, self.head + len(entries), dtype=np.uint64)
        entries["sequence"] = sequences
        entries["publication"] = np.where(entries["publication"] == 0, sequences, entries["publication"])
        self._cut_off = True
        self._journal.write(entries)
        self.head += len(entries)
        self._commit(entries, self.head)
        self._cut_off = False

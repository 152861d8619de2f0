"""Which block holds which tokens, over all hosts: a private index of every host's journal.

Knows hashes, blocks and journals; knows no leases, no rows, no allocation. It holds nothing that the journals don't: a host that
opens the pool reads them once and then follows their ends."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sac_runtime.block_hash import BlockHashes
from sac_runtime.hosts import HostsView
from sac_runtime.journal import Journal
from sac_runtime.layout import IntArray
from sac_runtime.lines import ENTRY, PUBLISHED, Lines
from sac_runtime.pool_format import PoolGeometry
from sac_runtime.store import KvStore

ABSENT = -1


class Directory:
    """Blocks by hash. Per block of the pool, whoever's: hash, publication, number of tokens; publication 0 means not published."""

    def __init__(self, store: KvStore, geometry: PoolGeometry, pool_id: int) -> None:
        self._geometry = geometry
        self._journals = [Journal(store, geometry, pool_id, host) for host in range(geometry.num_hosts)]
        self._cursors = [1] * geometry.num_hosts
        self.num_torn_entries = 0
        self.publications = np.zeros(geometry.num_blocks, np.uint64)
        self.num_tokens = np.zeros(geometry.num_blocks, np.uint16)
        self._hashes = np.zeros((geometry.num_blocks, 2), np.uint64)
        self._sequences = np.zeros(geometry.num_blocks, np.uint64)
        self._index = _HashIndex(geometry.num_blocks, self._hashes, self.publications)

    @property
    def num_published(self) -> int:
        return int(np.count_nonzero(self.publications))

    def journal(self, host: int) -> Journal:
        return self._journals[host]

    def catch_up(self, look: Callable[[], HostsView]) -> HostsView:
        """Follow every journal to its committed head. look: reads the hosts' states. Returns the view that was caught up with."""
        view = look()
        for host, head in enumerate(view.states["head"].tolist()):
            while self._cursors[host] < head and not self._follow(host, head):
                view = look()  # the journal came round while it was read: its head is further by now
                head = int(view.states["head"][host])
        return view

    def find(self, hashes: BlockHashes) -> IntArray:
        """Block of each hash, or ABSENT. hashes: (n, 2) uint64. Returns (n,) int64. All 128 bits are compared."""
        return self._index.find(hashes)

    def apply(self, host: int, entries: Lines, head: int) -> None:
        """Take in entries of one journal, in its order, up to `head`."""
        published = entries["kind"] == PUBLISHED
        blocks = entries["block"].astype(np.int64)
        before = self.publications[blocks]
        self.publications[blocks] = np.where(published, entries["publication"], np.uint64(0))
        self._sequences[blocks] = entries["sequence"]
        self._hashes[blocks, 0] = entries["hash_low"]
        self._hashes[blocks, 1] = entries["hash_high"]
        self.num_tokens[blocks] = entries["num_tokens"]
        news = published & (before != entries["publication"])  # the rest are copies of entries known already
        self._index.add(blocks[news])
        self._cursors[host] = head

    def live_entries(self, host: int, first: int, stop: int) -> Lines:
        """Copies of `host`'s live entries that have sequences in [first, stop). Returns (n,) ENTRY."""
        arena = slice(host * self._geometry.blocks_per_host, (host + 1) * self._geometry.blocks_per_host)
        sequences = self._sequences[arena]
        old = (sequences >= first) & (sequences < stop) & (self.publications[arena] > 0)
        return self.entries_of(np.flatnonzero(old) + arena.start)

    def entries_of(self, blocks: IntArray) -> Lines:
        """Journal entries that say again what is known of `blocks`. Returns (n,) ENTRY."""
        entries = np.zeros(len(blocks), ENTRY)
        entries["kind"] = PUBLISHED
        entries["block"] = blocks
        entries["publication"] = self.publications[blocks]
        entries["num_tokens"] = self.num_tokens[blocks]
        entries["hash_low"], entries["hash_high"] = self._hashes[blocks].T
        return entries

    def _follow(self, host: int, head: int) -> bool:
        """Take in the journal from the cursor to `head`. False if it had to be read anew and may have moved on meanwhile."""
        journal, cursor = self._journals[host], self._cursors[host]
        if head - cursor <= journal.slots:
            bad = self._take_in(host, cursor, head)
            if not bad:
                return True
        self._forget(host)
        self.num_torn_entries += self._take_in(host, max(1, head - journal.slots), head)
        return False

    def _take_in(self, host: int, first: int, head: int) -> int:
        """Returns how many entries were torn, or overwritten since."""
        bad = 0
        for entries, skipped in self._journals[host].read(first, head):
            self.apply(host, entries, head)
            bad += skipped
        return bad

    def _forget(self, host: int) -> None:
        arena = slice(host * self._geometry.blocks_per_host, (host + 1) * self._geometry.blocks_per_host)
        self.publications[arena] = 0


class _HashIndex:
    """Open addressing over block numbers, in numpy so that a million blocks go in at once; keys stay in `hashes`.

    An entry counts while its block is published and has the hash looked for; so a retired block need not be taken out, and of two
    blocks with one hash either is found after the other has gone. What no longer counts is swept out when the table fills up."""

    def __init__(self, capacity: int, hashes: NDArray[np.uint64], publications: NDArray[np.uint64]) -> None:
        self._hashes = hashes
        self._publications = publications
        self._table = np.full(1 << (2 * capacity).bit_length(), ABSENT, np.int32)
        self._mask = len(self._table) - 1
        self._used = 0

    def add(self, blocks: IntArray) -> None:
        """Put published blocks in. blocks: (n,) int64, each hash and publication in place."""
        if self._used + len(blocks) > len(self._table) * 3 // 4:
            self._table.fill(ABSENT)
            self._used = 0
            blocks = np.flatnonzero(self._publications)
        self._used += len(blocks)
        at, step = self._start(self._hashes[blocks])
        while len(blocks):
            empty = self._table[at] < 0
            self._table[at[empty]] = blocks[empty]  # of several that want one place the last has it
            homeless = self._table[at] != blocks
            blocks, step = blocks[homeless], step[homeless]
            at = (at[homeless] + step) & self._mask

    def find(self, hashes: BlockHashes) -> IntArray:
        found = np.full(len(hashes), ABSENT, np.int64)
        pending = np.arange(len(hashes))
        at, step = self._start(hashes)
        while len(pending):
            block = self._table[at]
            match = (
                (self._hashes[block] == hashes[pending]).all(axis=1) & (self._publications[block] > 0) & (block >= 0)
            )
            found[pending[match]] = block[match]
            on = (block >= 0) & ~match
            pending, step = pending[on], step[on]
            at = (at[on] + step) & self._mask
        return found

    def _start(self, hashes: BlockHashes) -> tuple[IntArray, IntArray]:
        """First place and step of each hash. The step is odd, so that it visits every place of a table of 2^n."""
        mask = np.uint64(self._mask)
        return (hashes[:, 0] & mask).astype(np.int64), (hashes[:, 1] & mask | np.uint64(1)).astype(np.int64)

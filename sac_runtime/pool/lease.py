"""Leases: how a host says which blocks it may be reading, so that their owners do not reuse them.

Knows how a lookup and the promise behind it work; writes no blocks. A lease names an epoch: a number that an owner raises whenever
it retires blocks. A host announces the oldest epoch under its leases in its state line, and an owner reuses what it retired at
epoch r once no announced epoch lies before r. The announcement must be in memory before the journals are read for the last time:
whatever is still published then has an owner that will see the announcement when it retires."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from sac_runtime.errors import BlockStateError, FencedError
from sac_runtime.memory.store import KvStore
from sac_runtime.pool.arena import Arena
from sac_runtime.pool.block_hash import BlockHashes
from sac_runtime.pool.block_rows import BlockRows
from sac_runtime.pool.directory import ABSENT, Directory
from sac_runtime.pool.hosts import Hosts
from sac_runtime.pool.lines import NO_LEASE
from sac_runtime.rows.layout import IntArray


class Leases:
    """The leases of one host, and what its cache holds of the blocks that it reads under them. One per Pool, which shares its
    lock with it."""

    def __init__(
        self,
        store: KvStore,
        block_rows: BlockRows,
        hosts: Hosts,
        directory: Directory,
        arena: Arena,
        lock: threading.RLock,
    ) -> None:
        self._store = store
        self._block_rows = block_rows
        self._hosts = hosts
        self._directory = directory
        self._arena = arena
        self._lock = lock
        self._other_hosts = [host for host in range(block_rows.geometry.num_hosts) if host != hosts.host]
        self._epochs: dict[int, int] = {}  # lease number -> epoch
        # By lease number: blocks that it found, or that were published while it lasted.
        self._in_use: defaultdict[int, list[IntArray]] = defaultdict(list)
        self._num_begun = 0
        # Publication of each block that this host's cache agrees with: an older one was of other contents.
        self._cached = np.zeros(block_rows.geometry.num_blocks, np.uint64)

    @contextmanager
    def hold(self) -> Iterator["Lease"]:
        """As Pool.lease()."""
        with self._lock:
            self._num_begun += 1
            lease = Lease(self, self._num_begun)
        try:
            with self._lock:
                self._begin(lease.number)
            yield lease
            lease.check()
        finally:
            with self._lock:
                self._end(lease.number)

    def lookup(self, hashes: BlockHashes) -> IntArray:
        """As Pool.lookup(): a hint, under no lease."""
        with self._lock:
            blocks = self._directory.find(hashes)
            if (blocks == ABSENT).any():
                self._catch_up()
                blocks = self._directory.find(hashes)
            return blocks

    def lookup_under(self, number: int, hashes: BlockHashes, prefix: bool) -> IntArray:
        """Look up, and make sure that this host's cache holds nothing older than the publications found. prefix: stop at the first
        hash that is unknown. Raises BlockStateError if lease `number` has ended, FencedError."""
        with self._lock:
            self.require(number)
            places = self.lookup(hashes)
            if prefix:
                places = places[: int(np.argmax(np.append(places, ABSENT) == ABSENT))]
            blocks = places[places != ABSENT]
            self._arena.used(blocks)
            self._in_use[number].append(blocks)
            self._drop_stale_lines(blocks)
            return places

    def require(self, number: int) -> None:
        """Raise BlockStateError if lease `number` has ended, FencedError if this host was fenced off."""
        with self._lock:
            if number not in self._epochs:
                raise BlockStateError(
                    f"pool host {self._hosts.host}: lease {number} has ended; read inside its with statement"
                )
            self._hosts.require_unfenced()

    def note_written(self, blocks: IntArray) -> None:
        """Note that this host has just published `blocks`: its cache holds what it wrote."""
        self._cached[blocks] = self._directory.publications[blocks]
        for number in self._epochs:
            self._in_use[number].append(blocks)

    def blocks_in_use(self) -> IntArray:
        """Blocks that a lease of this host has found, or that were published while it lasted. Returns (n,) int64, distinct."""
        blocks: IntArray = np.unique(
            np.concatenate([np.empty(0, np.int64), *(part for parts in self._in_use.values() for part in parts)])
        )
        return blocks

    def _begin(self, number: int) -> None:
        self._hosts.require_unfenced()
        self._catch_up()
        self._epochs[number] = self._directory.epoch
        self._announce()
        self._catch_up()  # only what is still published now, after the announcement, is protected by it
        self._directory.distrust_unannounced(self._other_hosts)

    def _end(self, number: int) -> None:
        self._epochs.pop(number, None)  # None if it never began
        self._in_use.pop(number, None)
        with suppress(FencedError):  # its lease counts no more anyway
            self._announce()

    def _announce(self) -> None:
        oldest = min(self._epochs.values(), default=NO_LEASE)
        if oldest != self._hosts.state["reading"]:
            self._hosts.write(reading=oldest)

    def _catch_up(self) -> None:
        self._directory.catch_up(self._hosts.look)

    def _drop_stale_lines(self, blocks: IntArray) -> None:
        """Invalidate the lines of those blocks that were published since this host last read them."""
        stale = np.unique(blocks[self._cached[blocks] != self._directory.publications[blocks]])
        for offset, size_bytes in self._block_rows.byte_ranges(stale):
            self._store.invalidate(offset, size_bytes)
        self._store.fence()
        self._cached[stale] = self._directory.publications[stale]


@dataclass(frozen=True)
class Lease:
    """A promise of the pool: blocks found under it keep their contents until it ends. Made by Pool.lease()."""

    leases: Leases
    number: int

    def lookup(self, hashes: BlockHashes) -> IntArray:
        """Block of each hash, or -1; ready to read. hashes: (n, 2) uint64. Returns (n,) int64.
        Raises BlockStateError after the lease's end, FencedError."""
        return self.leases.lookup_under(self.number, hashes, prefix=False)

    def prefix(self, hashes: BlockHashes) -> IntArray:
        """Blocks of the longest published prefix of a chain; ready to read. Returns (<= n,) int64. Raises as lookup()."""
        return self.leases.lookup_under(self.number, hashes, prefix=True)

    def check(self) -> None:
        """Raise FencedError if this host was fenced off since the lease began. Call it after the last read, before using what was
        read: until then a block could have been reused without this host's knowledge."""
        self.leases.require(self.number)

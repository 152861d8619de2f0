"""Which block holds which tokens, over all hosts: a private index of every host's journal.

Knows hashes, blocks and journals; knows no leases, no rows, no allocation. It holds nothing that the journals don't: a host that
opens the pool reads them once and then follows their ends."""

import ctypes
from collections.abc import Callable, Iterable

import numpy as np

from sac_runtime import native
from sac_runtime.memory.store import KvStore
from sac_runtime.pool.block_hash import BlockHashes
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.hosts import HostsView
from sac_runtime.pool.journal import Journal
from sac_runtime.pool.lines import PUBLISHED, RETIRED, Lines, hashes_in, publications
from sac_runtime.rows.doors import require_array
from sac_runtime.rows.layout import IntArray

ABSENT = -1

_FEWEST_PLACES = 1024  # of an index; it grows with what it holds


class Directory:
    """Blocks by hash. Per block of the pool, whoever's: hash, publication, number of tokens; publication 0 means not published.

    epoch: the pool's when the journals were last followed, 0 before; whatever was retired before it began is known here.
    num_torn_entries: entries passed over; num_withdrawn: blocks that are not found, since an entry that may have retired them is
    lost, or is not announced."""

    def __init__(self, store: KvStore, geometry: PoolGeometry, pool_id: int, host: int) -> None:
        self._geometry = geometry
        self._host = host
        self._journals = [Journal(store, geometry, pool_id, host) for host in range(geometry.num_hosts)]
        self._cursors = [1] * geometry.num_hosts
        self._last_missing = [
            0
        ] * geometry.num_hosts  # sequence; entries below the head that did not come back when read anew
        self.epoch = 0
        self.num_torn_entries = 0
        self.num_withdrawn = 0
        self.publications = np.zeros(geometry.num_blocks, np.uint64)
        self.num_tokens = np.zeros(geometry.num_blocks, np.uint16)
        self._hashes = np.zeros((geometry.num_blocks, 2), np.uint64)
        # Of the latest entry of each own block, and of those of a host whose journal is being read anew.
        self._sequences = np.zeros(geometry.num_blocks, np.uint64)
        self._index = _HashIndex(self._hashes)

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
                self._withdraw(host, self._journals[host].oldest_live(head))
                self._withdraw_for_damage(host)
        self.epoch = view.epoch
        return view

    def distrust_unannounced(self, hosts: Iterable[int]) -> None:
        """Withdraw what entries beyond the heads, as last followed, may have withdrawn. A block that is found without need of them
        is as it was: none of them retires it, and none says that it was reused."""
        for host in hosts:
            self._withdraw_named(self._journals[host].unannounced(self._cursors[host]))

    def own_end(self) -> tuple[int, bool]:
        """Where the own journal may go on, having been followed to its head; and whether other hosts may know more of this host's
        blocks than it says: some of its entries are lost, or lie beyond the head (then these are distrusted)."""
        cursor = self._cursors[self._host]
        unannounced = self._journals[self._host].unannounced(cursor)
        self._withdraw_named(unannounced)
        end = int(unannounced["sequence"][-1]) + 1 if len(unannounced) else cursor
        return end, bool(len(unannounced)) or self._last_missing[self._host] > 0

    def find(self, hashes: BlockHashes) -> IntArray:
        """Block of each hash, or ABSENT. hashes: (n, 2) uint64. Returns (n,) int64. All 128 bits are compared.
        Raises GeometryError."""
        require_array("pool lookup", "hashes", hashes, np.uint64, ("n", 2))
        return self._index.find(hashes)

    def apply(self, host: int, entries: Lines, head: int, anew: bool = False) -> None:
        """Take in entries of one journal, in its order, up to `head`. anew: from the oldest live one on."""
        blocks = entries["block"].astype(np.int64)
        before = self.publications[blocks]
        self.publications[blocks] = np.where(entries["kind"] == PUBLISHED, entries["publication"], np.uint64(0))
        after = self.publications[blocks]  # where entries name a block twice the last of them has the say
        changed = before != after  # the rest are copies of entries known already
        self._index.remove(blocks[changed & (before > 0)])
        self._hashes[blocks] = hashes_in(entries)
        self.num_tokens[blocks] = entries["num_tokens"]
        self._index.add(blocks[changed & (after > 0)])
        if anew or host == self._host:
            self._sequences[blocks] = entries["sequence"]
        self._cursors[host] = head

    def live_entries(self, first: int, stop: int) -> Lines:
        """Copies of the own live entries that have sequences in [first, stop). Returns (n,) ENTRY."""
        blocks = self.published_by(self._host)
        sequences = self._sequences[blocks]
        return self.entries_of(blocks[(sequences >= first) & (sequences < stop)])

    def published_by(self, host: int) -> IntArray:
        """Blocks of `host` that can be found, (n,) int64."""
        arena = self._arena(host)
        blocks: IntArray = np.flatnonzero(self.publications[arena]) + arena.start
        return blocks

    def entries_of(self, blocks: IntArray) -> Lines:
        """Journal entries that say again what is known of `blocks`. Returns (n,) ENTRY."""
        return publications(
            blocks, self._hashes[blocks], self.num_tokens[blocks], publication=self.publications[blocks]
        )

    def tombstones_of(self, blocks: IntArray) -> Lines:
        """Journal entries that say that `blocks` are found no more. Returns (n,) ENTRY."""
        tombstones = self.entries_of(blocks)
        tombstones["kind"] = RETIRED
        tombstones["epoch"] = self.epoch
        return tombstones

    def _follow(self, host: int, head: int) -> bool:
        """Take in the journal from the cursor to `head`. False if it had to be read anew and may have moved on meanwhile."""
        journal, cursor = self._journals[host], self._cursors[host]
        if cursor >= journal.oldest_live(head) and not self._take_in(host, cursor, head)[0]:
            return True
        self._unpublish(self.published_by(host))
        self._last_missing[host], num_torn = self._take_in(host, journal.oldest_live(head), head, anew=True)
        self.num_torn_entries += num_torn
        return False

    def _take_in(self, host: int, first: int, head: int, anew: bool = False) -> tuple[int, int]:
        """Returns the last sequence that was missing, 0 if none was, and how many entries were torn."""
        last_missing = torn = 0
        self._index.make_room(min(head - first, self._geometry.blocks_per_host))
        for piece in self._journals[host].read(first, head):
            self.apply(host, piece.entries, head, anew)
            last_missing = max(last_missing, piece.last_missing)
            torn += piece.num_torn
        return last_missing, torn

    def _withdraw(self, host: int, oldest_live: int) -> None:
        """Take back what entries before `oldest_live` said: they were read while their slots were being overwritten, so that a
        tombstone among them may be missing. What is live of them has a copy further on."""
        blocks = self.published_by(host)
        self._unpublish(blocks[self._sequences[blocks] < oldest_live])

    def _withdraw_for_damage(self, host: int) -> None:
        """Take back what an entry below the head may have withdrawn that is missing for good: all that was said before it, and not
        again since. One that was overwritten while it was read lies before what is live, and takes nothing back."""
        before = self.num_published
        self._withdraw(host, self._last_missing[host] + 1)
        self.num_withdrawn += before - self.num_published

    def _withdraw_named(self, entries: Lines) -> None:
        """Take back the blocks of `entries` that are published otherwise than they say. They change nothing else."""
        blocks = entries["block"].astype(np.int64)
        differs = (entries["kind"] == RETIRED) | (self.publications[blocks] != entries["publication"])
        withdrawn = np.unique(blocks[differs & (self.publications[blocks] > 0)])
        self._unpublish(withdrawn)
        self.num_withdrawn += len(withdrawn)

    def _unpublish(self, blocks: IntArray) -> None:
        self._index.remove(blocks)
        self.publications[blocks] = 0

    def _arena(self, host: int) -> slice:
        return slice(host * self._geometry.blocks_per_host, (host + 1) * self._geometry.blocks_per_host)


class _HashIndex:
    """Open addressing over block numbers, in native code; the keys stay in `hashes`.

    Two blocks may have one hash: either is found, and the other once the first has been removed."""

    def __init__(self, hashes: BlockHashes) -> None:
        """hashes: (blocks, 2) uint64, of which those in the index must not change."""
        self._hashes = hashes
        self._places = np.zeros(len(hashes), np.int32)
        self._library = native.load()
        self._call = 0  # address of self._index
        self._num_used = 0  # places that hold a block, or held one
        self._use_table_of(_FEWEST_PLACES)

    def add(self, blocks: IntArray) -> None:
        """Put in blocks whose hashes are in place. blocks: (n,) int64."""
        self.make_room(len(blocks))
        self._num_used += self._library.sac_index_add(self._call, native.address(blocks), len(blocks))

    def make_room(self, num_more: int) -> None:
        """See to it that at most 3/4 of the places are used with that many blocks more. When not, a new table starts with 1/2 at
        most, and without the removed ones."""
        if 4 * (self._num_used + num_more) > 3 * len(self._table):
            blocks = self._table[self._table > 0].astype(np.int64) - 1
            self._use_table_of(max(_FEWEST_PLACES, 1 << (2 * (len(blocks) + num_more) - 1).bit_length()))
            self._num_used = self._library.sac_index_add(self._call, native.address(blocks), len(blocks))

    def remove(self, blocks: IntArray) -> None:
        """Take out blocks that are in the index. blocks: (n,) int64."""
        self._library.sac_index_remove(self._call, native.address(blocks), len(blocks))

    def find(self, hashes: BlockHashes) -> IntArray:
        """Block of each hash, or ABSENT. hashes: (n, 2) uint64. Returns (n,) int64."""
        keys = np.ascontiguousarray(hashes, np.uint64)
        blocks = np.empty(len(keys), np.int64)
        self._library.sac_index_find(self._call, native.address(keys), len(keys), native.address(blocks))
        return blocks

    def _use_table_of(self, num_places: int) -> None:
        self._table = np.zeros(num_places, np.int32)
        self._places[:] = 0  # those of a larger table lie outside of this one
        self._num_used = 0
        self._index = native.Index(
            native.address(self._table), num_places - 1, native.address(self._hashes), native.address(self._places)
        )
        self._call = ctypes.addressof(self._index)

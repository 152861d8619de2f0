"""The pool: KV blocks in memory that hosts share without coherence. Allocate, write, publish; look up under a lease, read.

Knows how the parts work together; knows no models, no top-k, no time. The terms (block, arena, journal, epoch, lease) stand in
docs/glossary.md. A state line is the 64 bytes in which a host says how far its journal reaches, which epoch it reads, and that
it lives.

CXL 2.0 memory is not coherent between hosts and has no atomics across them. So no line has two writers, and the order in which a
host's lines reach memory is what the others rely on: docs/pool-protocol.md has it.

    with Pool.create(store, host=0, num_hosts=2, num_layers=61, block_tokens=64) as pool:
        pool.put(chain_hashes(tokens, 64), values)      # (61, n * 64, row_bytes)

    with Pool.open(store, host=1) as pool, pool.lease() as lease:
        blocks = lease.prefix(hashes)
        store.read_rows(pool.row_table(blocks).rows(layer, topk_tokens), out)
        lease.check()
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Self

import numpy as np

from sac_runtime.errors import FencedError, PoolFormatError
from sac_runtime.memory.store import KvStore
from sac_runtime.pool import arguments
from sac_runtime.pool import format as pool_format
from sac_runtime.pool import hosts as host_lines
from sac_runtime.pool.arena import Arena, BlockState
from sac_runtime.pool.block_hash import BlockHashes
from sac_runtime.pool.block_rows import BlockRows
from sac_runtime.pool.directory import Directory
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.heartbeat import heartbeat
from sac_runtime.pool.hosts import DEFAULT_PATIENCE_S, Hosts
from sac_runtime.pool.journal import JournalWriter
from sac_runtime.pool.lease import Lease, Leases
from sac_runtime.pool.lines import PUBLISHED, Lines, publications
from sac_runtime.pool.room import Room
from sac_runtime.rows.layout import ByteArray, IntArray
from sac_runtime.rows.placement import RowTable


class Pool:
    """One host's hold on a pool. Made by create() or open(); closed by close(), or at the end of a with statement.

    One process per host number. Within the process all methods may be called from several threads."""

    def __init__(
        self,
        store: KvStore,
        geometry: PoolGeometry,
        pool_id: int,
        host: int,
        *,
        evict: bool = False,
        patience_s: float = DEFAULT_PATIENCE_S,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Use create() or open(). Raises HostBusyError."""
        pool_format.require_host(geometry, host)
        self.store = store
        self.geometry = geometry
        self.host = host
        self._lock = threading.RLock()
        self._hosts = Hosts(store, geometry, pool_id, host, patience_s, clock_ns)
        self._block_rows = BlockRows(geometry, store.rows_offset)
        self._directory = Directory(store, geometry, pool_id, host)
        self._closed = False
        self._join(sleep)
        self._room = Room(self._hosts, self._arena, self._leases, self.retire, evict)

    @classmethod
    def create(
        cls,
        store: KvStore,
        *,
        host: int,
        num_hosts: int,
        num_layers: int,
        block_tokens: int,
        blocks_per_host: int | None = None,
        index_key_bytes: int = 0,
        replace: bool = False,
        evict: bool = False,
        patience_s: float = DEFAULT_PATIENCE_S,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> Self:
        """Make `store` a pool and join it as `host`. One host creates, the others open.

        blocks_per_host None: as many as the store's rows hold. replace: destroy a pool that is there already.
        evict: see allocate(). Raises GeometryError if the store does not fit, PoolFormatError if it holds a pool."""
        one = PoolGeometry(store.layout, num_hosts, num_layers, block_tokens, 1, index_key_bytes)
        blocks = max(1, store.num_rows // one.num_rows) if blocks_per_host is None else blocks_per_host
        geometry = PoolGeometry(store.layout, num_hosts, num_layers, block_tokens, blocks, index_key_bytes)
        pool_format.require_store_fits(store, geometry)
        pool_format.require_host(geometry, host)
        if not replace and pool_format.holds_pool(store):
            raise PoolFormatError("pool: this memory holds a pool already (open it, or create with replace=True)")
        pool_format.erase_superblock(store)
        host_lines.erase(store, geometry)
        pool_id = pool_format.write_superblock(store, geometry)
        return cls(store, geometry, pool_id, host, evict=evict, patience_s=patience_s, clock_ns=clock_ns)

    @classmethod
    def open(
        cls,
        store: KvStore,
        *,
        host: int,
        expected: PoolGeometry | None = None,
        wait_s: float = 0.0,
        evict: bool = False,
        patience_s: float = DEFAULT_PATIENCE_S,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Self:
        """Join the pool in `store` as `host`, where a process of that number may have died at any point.

        expected: refuse a pool of any other geometry. wait_s: how long to wait for somebody to create it; evict: see allocate().
        patience_s: silence after which a host is taken for dead; if the last process of this host did not close the pool, open()
        first watches it that long. Raises PoolFormatError, HostBusyError. To read alone, without a host number: PoolReader."""
        geometry, pool_id = pool_format.find_pool(store, expected, wait_s, sleep)
        return cls(store, geometry, pool_id, host, evict=evict, patience_s=patience_s, clock_ns=clock_ns, sleep=sleep)

    @property
    def num_free(self) -> int:
        """Blocks of this host that can be allocated at once."""
        return self._arena.num_free

    @property
    def num_published(self) -> int:
        """Blocks of all hosts that can be found, as of the last refresh."""
        return self._directory.num_published

    @property
    def num_torn_entries(self) -> int:
        """Journal entries passed over: torn, or such as their host never writes."""
        return self._directory.num_torn_entries

    @property
    def num_withdrawn(self) -> int:
        """Blocks not found though published once: an entry that may have retired them is torn, lost or not announced."""
        return self._directory.num_withdrawn

    @property
    def num_rolled_back(self) -> int:
        """How often a host's state was older than at the look before: memory has lost what was written."""
        return self._hosts.num_rolled_back

    def count(self, state: BlockState) -> int:
        """Blocks of this host in `state`."""
        return self._arena.count(state)

    # -- writing ---------------------------------------------------------------------------------------------------------------

    def allocate(self, count: int) -> IntArray:
        """Take blocks of this host to write into. Returns (count,) int64.

        Where too few are free, reclaims what no one may read any more, fencing off hosts that hold a lease and are dead. Then, if
        the pool was opened with `evict`, retires as many published blocks of this host as are missing: those not used for longest,
        of one chain its last first, none that a lease of this host has found or that was published while it lasted. Else published
        blocks are never taken: retire() them. Raises PoolFullError, FencedError."""
        with self._lock:
            arguments.require_count(count)
            self._require_writable()
            self._room.require(count)
            return self._arena.allocate(count)

    def write(self, blocks: IntArray, layer: int, values: ByteArray, first_token: int = 0) -> int:
        """Write KV rows of one layer into allocated blocks.
        values: (n, row_bytes) uint8, for tokens first_token .. first_token + n - 1 of the sequence that `blocks` make up. Returns
        elapsed ns by the store's clock. Raises BlockStateError unless the blocks are held, FencedError."""
        with self._lock:
            self._require_held(blocks, "written")
            arguments.require_tokens(self.geometry, first_token, len(values), len(blocks))
            tokens = np.arange(first_token, first_token + len(values))
            return self.store.write_rows(self.row_table(blocks).rows(layer, tokens), values)

    def write_token(self, block: int, token: int, values: ByteArray) -> int:
        """Write one token's KV rows of all layers into an allocated block. values: (L, row_bytes) uint8; token: within the
        block. Returns and raises as write()."""
        with self._lock:
            blocks = np.array([block])
            self._require_held(blocks, "written")
            arguments.require_token(self.geometry, token)
            table, layers = self.row_table(blocks), range(self.geometry.num_layers)
            return self.store.write_rows(np.array([table.layer(layer).row(token) for layer in layers]), values)

    def write_index_keys(self, blocks: IntArray, layer: int, keys: ByteArray) -> int:
        """Write the indexer keys of one layer of allocated blocks. keys: (n * block_tokens, index_key_bytes) uint8. As write()."""
        with self._lock:
            self._require_held(blocks, "written")
            rows = self._block_rows.index_key_rows(blocks, layer)
            return self.store.write_rows(rows, self._block_rows.pack_index_keys(keys, len(blocks)))

    def publish(self, blocks: IntArray, hashes: BlockHashes, num_tokens: IntArray | None = None) -> None:
        """Let all hosts find allocated blocks, whose rows have been written. They never change from then on.

        hashes: (n, 2) from chain_hashes; num_tokens: (n,) valid tokens of each block, default all. Blocks appear in the order
        given, up to batch_entries at a time; on return all have. Raises BlockStateError, FencedError."""
        with self._lock:
            self._require_held(blocks, "published")
            arguments.require_hashes(hashes, len(blocks))
            valid_tokens = arguments.valid_num_tokens(self.geometry, num_tokens, len(blocks))
            self._flush(blocks)
            self._hosts.require_unfenced()  # flushing may have taken long
            self._journal.append(publications(blocks, hashes, valid_tokens, epoch=self._directory.epoch))
            self._arena.used(blocks)

    def put(
        self,
        hashes: BlockHashes,
        values: ByteArray,
        index_keys: ByteArray | None = None,
        num_tokens: IntArray | None = None,
    ) -> IntArray:
        """Allocate, write and publish whole blocks.
        values: (L, n * block_tokens, row_bytes) uint8; index_keys: (L, n * block_tokens, index_key_bytes) uint8, where the pool
        holds them. Returns the blocks, (n,) int64. Raises GeometryError, PoolFullError, FencedError; then nothing is held, unless
        its publication was cut off, so that others may see it."""
        arguments.require_put(self.geometry, "values", values, len(hashes), self.geometry.layout.row_bytes)
        if self.geometry.index_key_bytes or index_keys is not None:
            arguments.require_put(self.geometry, "index_keys", index_keys, len(hashes), self.geometry.index_key_bytes)
        blocks = self.allocate(len(hashes))
        try:
            for layer in range(self.geometry.num_layers):
                self.write(blocks, layer, values[layer])
                if index_keys is not None:
                    self.write_index_keys(blocks, layer, index_keys[layer])
            self.publish(blocks, hashes, num_tokens)
        except BaseException:
            with self._lock, suppress(FencedError):  # what others may see is never written again
                self._journal.require_whole()
                self._arena.free(self._arena.held_of(blocks))
            raise
        return blocks

    def free(self, blocks: IntArray) -> None:
        """Give back allocated blocks unpublished. Nobody could find them, so they are free at once. Raises BlockStateError."""
        with self._lock:
            self._arena.free(blocks)

    def retire(self, blocks: IntArray) -> None:
        """Let published blocks of this host be found no more. They are reused when no lease may still read them.
        Raises BlockStateError, FencedError."""
        with self._lock:
            self._require_writable()
            self._arena.require(blocks, BlockState.PUBLISHED, "retired")
            numbers = np.asarray(blocks, np.int64)
            self._journal.append(self._directory.tombstones_of(numbers))
            self._arena.retired(numbers, self._hosts.begin_epoch())

    def retire_coldest(self, count: int) -> IntArray:
        """Retire the `count` published blocks that this host has not used for longest. Returns those retired, (<= count,) int64."""
        with self._lock:
            arguments.require_count(count)
            blocks = self._arena.coldest(count)
            self.retire(blocks)
            return blocks

    # -- reading ---------------------------------------------------------------------------------------------------------------

    def lease(self) -> AbstractContextManager[Lease]:
        """Hold on to all that is published now: what a lookup in it finds is not reused before its end. Leases may overlap.
        Raises FencedError on entry, and at the end if this host was fenced off meanwhile (then what was read must not be used)."""
        return self._leases.hold()

    def lookup(self, hashes: BlockHashes) -> IntArray:
        """Block of each hash, or -1. hashes: (n, 2) uint64. Returns (n,) int64.

        Follows the journals if any is unknown. A hint, unless under a lease: to read, use Lease.lookup()."""
        return self._leases.lookup(hashes)

    def num_tokens(self, blocks: IntArray) -> IntArray:
        """Valid tokens of each published block, (n,) int64; less than block_tokens where a block was published partly full.
        Raises GeometryError for a number that is no block's, as ABSENT is none."""
        numbers = np.asarray(blocks)
        arguments.require_blocks_of_pool(self.geometry, numbers)
        return self._directory.num_tokens[numbers].astype(np.int64)

    def row_table(self, blocks: IntArray) -> RowTable:
        """Where the tokens of the sequence lie that `blocks` make up. Make it once per sequence, use it in every layer and step."""
        return self._block_rows.row_table(blocks)

    def rows(self, blocks: IntArray, layer: int) -> IntArray:
        """Row numbers of all tokens of `blocks` in `layer`, in order. Returns (n * block_tokens,) int64."""
        place = self.row_table(blocks).layer(layer)
        return place.rows(np.arange(place.num_tokens))

    def read_index_keys(self, blocks: IntArray, layer: int) -> ByteArray:
        """Indexer keys of one layer. Returns (n * block_tokens, index_key_bytes) uint8."""
        return self._block_rows.read_index_keys(self.store, blocks, layer)

    # -- life ------------------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Learn what the other hosts have published and retired."""
        with self._lock:
            self._directory.catch_up(self._hosts.look)

    def beat(self) -> None:
        """Show the other hosts that this one lives. Publishing, retiring, beginning and ending leases do so too."""
        with self._lock:
            self._hosts.require_unfenced()
            self._hosts.write()

    def beating(self, interval_s: float = DEFAULT_PATIENCE_S / 10) -> AbstractContextManager[None]:
        """Beat from a thread while the body runs, for work that stays away from the pool longer than the others' patience."""
        return heartbeat(self.beat, interval_s, f"pool-host-{self.host}-heartbeat")

    def fence_dead_hosts(self) -> list[int]:
        """Fence off every host that is open and was silent for patience_s, by this host's watch. Returns them. What they published
        stays readable; their leases no longer count. Raises FencedError."""
        with self._lock:
            self._hosts.require_unfenced()
            view = self._hosts.look()
            return self._hosts.fence_silent(view, view.counted)

    def close(self) -> None:
        """Leave the pool; its host number can be opened again at once. A second close does nothing. The store stays open."""
        with self._lock:
            if not self._closed:
                self._closed = True
                with suppress(FencedError):  # its lines are a successor's then
                    self._hosts.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _join(self, sleep: Callable[[float], None]) -> None:
        """Take this host's place, and find out what the process before left."""
        self._hosts.require_free(self.host, sleep)
        state = self._hosts.join(self._hosts.look().states[self.host])
        self.refresh()
        end, is_damaged = self._directory.own_end()
        journal = self._directory.journal(self.host)
        self._journal = JournalWriter(journal, self.geometry, end, self._commit, self._directory.live_entries)
        num_used = int(state["blocks_used"])
        if is_damaged or num_used > self.geometry.blocks_per_host:
            num_used = self.geometry.blocks_per_host
        self._arena = Arena(self.geometry, self.host, self._directory.published_by(self.host), num_used)
        self._leases = Leases(self.store, self._block_rows, self._hosts, self._directory, self._arena, self._lock)
        if (
            is_damaged
        ):  # others may have read entries that are lost to this host: now nobody finds what it does not know of
            self._hosts.write(blocks_used=num_used)
            self._journal.append(self._directory.tombstones_of(self._arena.unpublished()))
        self._arena.wait_for_readers(self._hosts.begin_epoch())

    def _commit(self, entries: Lines, head: int) -> None:
        """Make journal entries count: for the others by the state line, for this process by its directory."""
        is_new = (entries["kind"] == PUBLISHED) & (entries["publication"] == entries["sequence"])
        new = entries["block"][is_new].astype(np.int64)
        self._hosts.write(
            head=head, blocks_used=max(int(self._hosts.state["blocks_used"]), self._arena.num_used_with(new))
        )
        self._directory.apply(self.host, entries, head)
        self._arena.published(new)
        self._leases.note_written(new)

    def _require_held(self, blocks: IntArray, verb: str) -> None:
        self._arena.require(blocks, BlockState.HELD, verb)
        self._require_writable()

    def _require_writable(self) -> None:
        """Raise FencedError if others may not, or no longer, see this host's blocks as this process does."""
        self._journal.require_whole()
        self._hosts.require_unfenced()

    def _flush(self, blocks: IntArray) -> None:
        for offset, size_bytes in self._block_rows.byte_ranges(blocks):
            self.store.flush(offset, size_bytes)
        self.store.fence()

"""The pool: KV blocks in memory that hosts share without coherence. Allocate, write, publish; look up under a lease, read.

Knows how the parts work together; knows no models, no top-k, no time. CXL 2.0 memory is not coherent between hosts and has no
atomics across them, so no line has two writers, and every host writes what it says before it says it:

    publish   rows, flush, fence; journal entries, flush, fence; state line with the new journal head, flush, fence
    lease     announce the epoch that will be read, flush, fence; then follow all journals
    retire    tombstones and head; then look at all hosts: the blocks wait until nobody reads an epoch seen then

A reader that missed the tombstone had announced its lease before the owner looked, so the owner waits for it; one that the owner
did not see will read the tombstone. Epochs only make the wait end: leases begun after the retirement carry a later one.

    with Pool.create(store, host=0, num_hosts=2, num_layers=61, block_tokens=64) as pool:
        hashes = chain_hashes(tokens, 64)
        blocks = pool.allocate(len(hashes))
        for layer in range(61):
            pool.write(blocks, layer, values[layer])    # (n * 64, row_bytes)
        pool.publish(blocks, hashes)

    with Pool.open(store, host=1) as pool, pool.lease() as lease:
        blocks = lease.prefix(hashes)
        store.read_rows(pool.row_table(blocks).rows(layer, topk_tokens), out)
        lease.check()
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sac_runtime.errors import BlockStateError, FencedError, GeometryError, PoolFormatError, PoolFullError
from sac_runtime.memory.store import KvStore
from sac_runtime.pool import format as pool_format
from sac_runtime.pool import hosts as host_lines
from sac_runtime.pool.arena import Arena, BlockState
from sac_runtime.pool.block_hash import BlockHashes
from sac_runtime.pool.block_rows import BlockRows
from sac_runtime.pool.directory import ABSENT, Directory
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.hosts import Hosts, HostsView
from sac_runtime.pool.journal import JournalWriter
from sac_runtime.pool.lines import ENTRY, NO_LEASE, PUBLISHED, RETIRED, Lines, hashes_in
from sac_runtime.rows.layout import ByteArray, IntArray
from sac_runtime.rows.placement import RowTable

DEFAULT_PATIENCE_S = 5.0  # assumed: silence after which a host counts as dead; ten beats of Pool.beating


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
        patience_s: float = DEFAULT_PATIENCE_S,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Use create() or open(). Raises HostBusyError."""
        pool_format.require_host(geometry, host)
        if not 0 <= patience_s < inf:
            raise GeometryError(f"pool: patience_s={patience_s} must be a number of seconds, 0 or more")
        self.store = store
        self.geometry = geometry
        self.host = host
        self._patience_ns = int(patience_s * 1e9)
        self._lock = threading.RLock()
        self._leases: dict[int, int] = {}  # lease number -> epoch
        self._num_leases = 0
        self._hosts = Hosts(store, geometry, pool_id, host, clock_ns)
        self._placement = BlockRows(geometry, store.rows_offset)
        self._directory = Directory(store, geometry, pool_id, host)
        self._fresh = np.zeros(geometry.num_blocks, np.uint64)  # publication of each block that our cache agrees with
        self._epoch = 0  # the pool's, as of the last refresh
        self._closed = False
        self._join(sleep)

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
        patience_s: float = DEFAULT_PATIENCE_S,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> Self:
        """Make `store` a pool and join it as `host`. One host creates, the others open.

        blocks_per_host None: as many as the store's rows hold. replace: destroy a pool that is there already.
        Raises GeometryError if the store does not fit, PoolFormatError if it holds a pool."""
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
        return cls(store, geometry, pool_id, host, patience_s=patience_s, clock_ns=clock_ns)

    @classmethod
    def open(
        cls,
        store: KvStore,
        *,
        host: int,
        expected: PoolGeometry | None = None,
        patience_s: float = DEFAULT_PATIENCE_S,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Self:
        """Join the pool in `store` as `host`, where a process of that number may have died at any point.

        expected: refuse a pool of any other geometry. patience_s: silence after which a host is taken for dead; if the last process
        of this host did not close the pool, open() first watches it that long. Raises PoolFormatError, HostBusyError."""
        geometry, pool_id = pool_format.read_superblock(store)
        if expected is not None:
            pool_format.require_same_geometry(geometry, expected)
        pool_format.require_store_fits(store, geometry)
        return cls(store, geometry, pool_id, host, patience_s=patience_s, clock_ns=clock_ns, sleep=sleep)

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
        """Journal entries passed over since they were torn."""
        return self._directory.num_torn_entries

    def count(self, state: BlockState) -> int:
        """Blocks of this host in `state`."""
        return self._arena.count(state)

    # -- writing ---------------------------------------------------------------------------------------------------------------

    def allocate(self, count: int) -> IntArray:
        """Take blocks of this host to write into. Returns (count,) int64.

        Where too few are free, reclaims what no one may read any more, fencing off hosts that hold a lease and are dead. Published
        blocks are never taken: retire() them. Raises PoolFullError, FencedError."""
        with self._lock:
            _require_count(count)
            self._require_writable()
            if count > self._arena.num_free:
                self._reclaim(count)
            if count > self._arena.num_free:
                raise PoolFullError(self._why_full(count))
            return self._arena.allocate(count)

    def write(self, blocks: IntArray, layer: int, values: ByteArray, first_token: int = 0) -> int:
        """Write KV rows of one layer into allocated blocks.
        values: (n, row_bytes) uint8, for tokens first_token .. first_token + n - 1 of the sequence that `blocks` make up. Returns
        elapsed ns by the store's clock. Raises BlockStateError unless the blocks are held, FencedError."""
        with self._lock:
            self._require_held(blocks, "written")
            tokens = np.arange(first_token, first_token + len(values))
            if first_token < 0 or first_token + len(values) > len(blocks) * self.geometry.block_tokens:
                raise GeometryError(
                    f"pool write: tokens {first_token} to {first_token + len(values) - 1} lie outside "
                    f"[0, {len(blocks) * self.geometry.block_tokens}), the tokens of {len(blocks)} blocks"
                )
            return self.store.write_rows(self.row_table(blocks).rows(layer, tokens), values)

    def write_token(self, block: int, token: int, values: ByteArray) -> int:
        """Write one token's KV rows of all layers into an allocated block. values: (L, row_bytes) uint8; token: within the
        block. Returns and raises as write()."""
        with self._lock:
            blocks = np.array([block])
            self._require_held(blocks, "written")
            if not 0 <= token < self.geometry.block_tokens:
                raise GeometryError(
                    f"pool write: token={token} lies outside [0, {self.geometry.block_tokens}), the tokens of a block"
                )
            table, layers = self.row_table(blocks), range(self.geometry.num_layers)
            return self.store.write_rows(np.array([table.layer(layer).row(token) for layer in layers]), values)

    def write_index_keys(self, blocks: IntArray, layer: int, keys: ByteArray) -> int:
        """Write the indexer keys of one layer of allocated blocks. keys: (n * block_tokens, index_key_bytes) uint8. As write()."""
        with self._lock:
            self._require_held(blocks, "written")
            rows = self._placement.index_key_rows(blocks, layer)
            return self.store.write_rows(rows, self._placement.pack_index_keys(keys, len(blocks)))

    def publish(self, blocks: IntArray, hashes: BlockHashes, num_tokens: IntArray | None = None) -> None:
        """Let all hosts find allocated blocks, whose rows have been written. They never change from then on.

        hashes: (n, 2) from chain_hashes; num_tokens: (n,) valid tokens of each block, default all. Blocks appear in the order
        given, up to batch_entries at a time; on return all have. Raises BlockStateError, FencedError."""
        with self._lock:
            self._require_held(blocks, "published")
            if hashes.shape != (len(blocks), 2) or hashes.dtype != np.uint64:
                raise GeometryError(
                    f"pool publish: hashes is {hashes.dtype} of shape {hashes.shape}; it must be uint64 of shape ({len(blocks)}, 2)"
                )
            valid_tokens = self._valid_num_tokens(num_tokens, len(blocks))
            self._flush(blocks)
            self._hosts.require_unfenced()  # flushing may have taken long
            entries = np.zeros(len(blocks), ENTRY)
            entries["kind"] = PUBLISHED
            entries["block"] = blocks
            hashes_in(entries)[:] = hashes
            entries["num_tokens"] = valid_tokens
            entries["epoch"] = self._epoch
            self._journal.append(entries)
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
        self._require_whole("values", values, len(hashes), self.geometry.layout.row_bytes)
        if self.geometry.index_key_bytes or index_keys is not None:
            self._require_whole("index_keys", index_keys, len(hashes), self.geometry.index_key_bytes)
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
            tombstones = self._directory.entries_of(np.asarray(blocks, np.int64))
            tombstones["kind"] = RETIRED
            tombstones["epoch"] = self._epoch
            self._journal.append(tombstones)
            self._arena.retired(np.asarray(blocks, np.int64), self._begin_epoch())

    def retire_coldest(self, count: int) -> IntArray:
        """Retire the `count` published blocks that this host has not used for longest. Returns those retired, (<= count,) int64."""
        with self._lock:
            _require_count(count)
            blocks = self._arena.coldest(count)
            self.retire(blocks)
            return blocks

    # -- reading ---------------------------------------------------------------------------------------------------------------

    @contextmanager
    def lease(self) -> Iterator["Lease"]:
        """Hold on to all that is published now: what a lookup in it finds is not reused before its end. Leases may overlap.
        Raises FencedError on entry, and at the end if this host was fenced off meanwhile (then what was read must not be used)."""
        with self._lock:
            self._num_leases += 1
            lease = Lease(self, self._num_leases)
        try:
            with self._lock:
                self._begin_lease(lease.number)
            yield lease
            lease.check()
        finally:
            with self._lock:
                self._end_lease(lease.number)

    def lookup(self, hashes: BlockHashes) -> IntArray:
        """Block of each hash, or -1. hashes: (n, 2) uint64. Returns (n,) int64.

        Follows the journals if any is unknown. A hint, unless under a lease: to read, use Lease.lookup()."""
        with self._lock:
            found = self._directory.find(hashes)
            if (found == ABSENT).any():
                self.refresh()
                found = self._directory.find(hashes)
            return found

    def num_tokens(self, blocks: IntArray) -> IntArray:
        """Valid tokens of each published block, (n,) int64; less than block_tokens where a block was published partly full.
        Raises GeometryError for a number that is no block's, as ABSENT is none."""
        numbers = np.asarray(blocks)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < self.geometry.num_blocks):
            raise GeometryError(f"pool: blocks {numbers} do not all lie in [0, {self.geometry.num_blocks})")
        return self._directory.num_tokens[numbers].astype(np.int64)

    def row_table(self, blocks: IntArray) -> RowTable:
        """Where the tokens of the sequence lie that `blocks` make up. Make it once a sequence, use it every layer and step."""
        return self._placement.row_table(blocks)

    def rows(self, blocks: IntArray, layer: int) -> IntArray:
        """Row numbers of all tokens of `blocks` in `layer`, in order. Returns (n * block_tokens,) int64."""
        place = self.row_table(blocks).layer(layer)
        return place.rows(np.arange(place.num_tokens))

    def read_index_keys(self, blocks: IntArray, layer: int) -> ByteArray:
        """Indexer keys of one layer. Returns (n * block_tokens, index_key_bytes) uint8."""
        rows = self._placement.index_key_rows(blocks, layer)
        packed = np.empty((len(rows), self.geometry.layout.row_bytes), np.uint8)
        self.store.read_rows(rows, packed)
        return self._placement.unpack_index_keys(packed, len(blocks))

    # -- life ------------------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Learn what the other hosts have published and retired."""
        with self._lock:
            self._epoch = self._directory.catch_up(self._hosts.look).epoch

    def beat(self) -> None:
        """Show the other hosts that this one lives. Publishing, retiring, beginning and ending leases do so too."""
        with self._lock:
            self._hosts.require_unfenced()
            self._hosts.write()

    @contextmanager
    def beating(self, interval_s: float = DEFAULT_PATIENCE_S / 10) -> Iterator[None]:
        """Beat from a thread while the body runs, for work that stays away from the pool longer than the others' patience."""
        stop = threading.Event()

        def beat() -> None:
            with suppress(FencedError):  # the next use of the pool says so
                while not stop.wait(interval_s):
                    self.beat()

        thread = threading.Thread(target=beat, name=f"pool-host-{self.host}-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def fence_dead_hosts(self) -> list[int]:
        """Fence off every host that is open and was silent for patience_s, by this host's watch. Returns them. What they published
        stays readable; their leases no longer count. Raises FencedError."""
        with self._lock:
            self._hosts.require_unfenced()
            view = self._hosts.look()
            return self._fence_dead(view, view.counted)

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
        self._hosts.require_free(self.host, self._patience_ns, sleep)
        state = self._hosts.join(self._hosts.look().states[self.host])
        self.refresh()
        self._journal = JournalWriter(
            self._directory.journal(self.host),
            self.geometry,
            int(state["head"]),
            self._commit,
            self._directory.live_entries,
        )
        published = self._directory.published_by(self.host)
        self._arena = Arena(self.geometry, self.host, published, int(state["blocks_used"]), self._begin_epoch())

    def _commit(self, entries: Lines, head: int) -> None:
        """Make journal entries count: for the others by the state line, for this process by its directory."""
        new = entries["block"][entries["publication"] == entries["sequence"]].astype(np.int64)
        self._hosts.write(
            head=head, blocks_used=max(int(self._hosts.state["blocks_used"]), self._arena.num_used_with(new))
        )
        self._directory.apply(self.host, entries, head)
        self._arena.published(new)
        self._fresh[new] = self._directory.publications[new]  # our cache has what we wrote

    def _begin_epoch(self) -> int:
        """Start an epoch that no host reads yet. What was retired before may be reused when all hosts have come to it.

        The look must come after the tombstones are in memory: whoever missed them has announced an epoch that it sees."""
        epoch = self._hosts.look().epoch + 1
        self._hosts.write(epoch=epoch)
        return epoch

    def _begin_lease(self, number: int) -> None:
        self._hosts.require_unfenced()
        self.refresh()
        self._leases[number] = self._epoch
        self._announce()
        self.refresh()  # only what is still published now, after the announcement, is protected by it

    def _end_lease(self, number: int) -> None:
        self._leases.pop(number, None)  # None if it never began
        with suppress(FencedError):  # its lease counts no more anyway
            self._announce()

    def _announce(self) -> None:
        oldest = min(self._leases.values(), default=NO_LEASE)
        if oldest != self._hosts.state["reading"]:
            self._hosts.write(reading=oldest)

    def _under_lease(self, number: int, hashes: BlockHashes, prefix: bool) -> IntArray:
        """Look up, and make sure that this host's cache holds nothing older than the publications found."""
        with self._lock:
            self._require_lease(number)
            found = self.lookup(hashes)
            if prefix:
                found = found[: int(np.argmax(np.append(found, ABSENT) == ABSENT))]
            blocks = found[found != ABSENT]
            self._arena.used(blocks)
            stale = np.unique(blocks[self._fresh[blocks] != self._directory.publications[blocks]])
            for offset, size_bytes in self._placement.byte_ranges(stale):
                self.store.invalidate(offset, size_bytes)
            self.store.fence()
            self._fresh[stale] = self._directory.publications[stale]
            return found

    def _require_lease(self, number: int) -> None:
        if number not in self._leases:
            raise BlockStateError(f"pool host {self.host}: lease {number} has ended; read inside its with statement")
        self._hosts.require_unfenced()

    def _require_whole(self, name: str, rows: ByteArray | None, num_blocks: int, row_bytes: int) -> None:
        wanted = (self.geometry.num_layers, num_blocks * self.geometry.block_tokens, row_bytes)
        if rows is None or rows.shape != wanted or rows.dtype != np.uint8:
            found = "missing" if rows is None else f"{rows.dtype} of shape {rows.shape}"
            raise GeometryError(f"pool put: {name} is {found}; it must be uint8 of shape {wanted}")

    def _require_held(self, blocks: IntArray, verb: str) -> None:
        self._arena.require(blocks, BlockState.HELD, verb)
        self._require_writable()

    def _require_writable(self) -> None:
        """Raise FencedError if others may not, or no longer, see this host's blocks as this process does."""
        self._journal.require_whole()
        self._hosts.require_unfenced()

    def _valid_num_tokens(self, num_tokens: IntArray | None, num_blocks: int) -> IntArray | int:
        most = self.geometry.block_tokens
        if num_tokens is None:
            return most
        if np.shape(num_tokens) != (num_blocks,) or np.asarray(num_tokens).dtype.kind not in "iu":
            raise GeometryError(f"pool publish: num_tokens={num_tokens} must be {num_blocks} integers, one a block")
        if np.min(num_tokens, initial=1) < 1 or np.max(num_tokens, initial=1) > most:
            raise GeometryError(f"pool publish: num_tokens={num_tokens} must lie in [1, {most}], the block_tokens")
        return num_tokens

    def _flush(self, blocks: IntArray) -> None:
        for offset, size_bytes in self._placement.byte_ranges(blocks):
            self.store.flush(offset, size_bytes)
        self.store.fence()

    def _reclaim(self, count: int) -> None:
        view = self._hosts.look()
        self._arena.reclaim(view.oldest_epoch_read)
        if count > self._arena.num_free and self._fence_dead(view, view.counted & (view.states["reading"] != NO_LEASE)):
            self._arena.reclaim(self._hosts.look().oldest_epoch_read)

    def _fence_dead(self, view: HostsView, suspects: NDArray[np.bool_]) -> list[int]:
        dead = [
            host
            for host in np.flatnonzero(suspects).tolist()
            if host != self.host and self._hosts.silent_for_ns(host) >= self._patience_ns
        ]
        for host in dead:
            self._hosts.fence_off(host, int(view.states[host]["incarnation"]))
        return dead

    def _why_full(self, count: int) -> str:
        view = self._hosts.look()
        readers = np.flatnonzero(view.counted & (view.states["reading"] != NO_LEASE)).tolist()
        return (
            f"pool arena of host {self.host}: {count} blocks wanted, {self._arena.num_free} free of "
            f"{self.geometry.blocks_per_host}; {self._arena.count(BlockState.PUBLISHED)} published (retire some), "
            f"{self._arena.count(BlockState.HELD)} being written, {self._arena.count(BlockState.RETIRED)} retired and perhaps "
            f"read still, by hosts {readers} (wait for their leases to end)"
        )


@dataclass(frozen=True)
class Lease:
    """A promise of the pool: blocks found under it keep their contents until it ends. Made by Pool.lease()."""

    pool: Pool
    number: int

    def lookup(self, hashes: BlockHashes) -> IntArray:
        """Block of each hash, or -1; ready to read. hashes: (n, 2) uint64. Returns (n,) int64. Raises FencedError."""
        return self.pool._under_lease(self.number, hashes, prefix=False)

    def prefix(self, hashes: BlockHashes) -> IntArray:
        """Blocks of the longest published prefix of a chain; ready to read. Returns (<= n,) int64. Raises FencedError."""
        return self.pool._under_lease(self.number, hashes, prefix=True)

    def check(self) -> None:
        """Raise FencedError if this host was fenced off since the lease began. Call it after the last read, before using what was
        read: until then a block could have been reused without this host's knowledge."""
        with self.pool._lock:
            self.pool._require_lease(self.number)


def _require_count(count: int) -> None:
    if count < 0 or count != int(count):
        raise GeometryError(f"pool: count={count} must be a number of blocks, 0 or more")

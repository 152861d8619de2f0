"""Hosts meet at every step of what they do, over caches that nothing keeps coherent; and code broken on purpose is found out.

Each meeting stops one host before its k-th access, be it one line that its cache writes to memory; lets another act, or lets the
host die there; and goes on; for every k. The pool as it is passes them all. Then one thing is broken at a time, and some meeting
must fail."""

from contextlib import suppress

import numpy as np
import pytest

from emulation.stores.incoherent import IncoherentStore
from sac_runtime.errors import FencedError, PoolFullError, SacError
from sac_runtime.pool import format as pool_format
from sac_runtime.pool import hosts, journal, lines
from sac_runtime.pool.directory import Directory
from sac_runtime.pool.hosts import Hosts, HostsView
from sac_runtime.pool.journal import Journal, JournalWriter
from sac_runtime.pool.lease import Leases
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import PAGE_BYTES, KvLayout
from sac_runtime.rows.placement import RowTable


class HostDied(BaseException):
    """Not an Exception: nothing in the runtime may catch it."""


def die():
    raise HostDied


class SteppingMemory:
    """The memory under a cache; calls `step` before each line that reaches it."""

    def __init__(self, memory, step):
        self._memory, self._step = memory, step

    def __getattr__(self, name):
        return getattr(self._memory, name)

    def write_bytes(self, offset, values):
        self._step()
        self._memory.write_bytes(offset, values)


class SteppingStore(IncoherentStore):
    """Calls `meeting` once, before the step-th access from arm() on. Notes in `trail` what is done to which part of memory.

    By an odd seed flushes may take effect before their fence, by an even one they do not."""

    def __init__(self, memory, seed=0):
        super().__init__(SteppingMemory(memory, self._step), seed=seed, prefetch=0.5, flush_early=seed % 2 / 2)
        self._countdown, self._meeting = -1, None
        self.trail = []

    def arm(self, step, meeting):
        self._countdown, self._meeting = step, meeting

    def disarm(self):
        """Whether the meeting took place."""
        met, self._countdown = self._countdown < 0, -1
        return met

    def _step(self, access="write line"):
        self.trail.append(access)
        self._countdown -= 1
        if self._countdown == -1:
            self._meeting()

    def read_rows(self, rows, out):
        self._step("read rows")
        return super().read_rows(rows, out)

    def write_rows(self, rows, values):
        self._step("write rows")
        return super().write_rows(rows, values)

    def read_bytes(self, offset, out):
        self._step(f"read {part_of(self, offset)}")
        super().read_bytes(offset, out)

    def write_bytes(self, offset, values):
        self._step(f"write {part_of(self, offset)}")
        super().write_bytes(offset, values)

    def flush(self, offset, size_bytes):
        self._step(f"flush {part_of(self, offset)}")
        super().flush(offset, size_bytes)

    def invalidate(self, offset, size_bytes):
        self._step(f"invalidate {part_of(self, offset)}")
        super().invalidate(offset, size_bytes)

    def fence(self):
        self._step("fence")
        super().fence()


def part_of(store, offset):
    """Superblock and hosts have a page each in these pools, the journals those up to the rows."""
    if offset >= store.rows_offset:
        return "rows"
    return ("superblock", "state", "journal")[min(offset // PAGE_BYTES, 2)]


def require_right(kit, pool, lease, hashes):
    """What is found of `hashes` holds what it should, in the host's cache and in memory. Returns which are found, and where."""
    found = lease.lookup(hashes)
    known = found >= 0
    require_holds(kit, pool, found[known], hashes[known])
    return known, found[known]


def require_all(kit, pool, lease, hashes):
    """All of `hashes` are found and right. Returns where."""
    known, blocks = require_right(kit, pool, lease, hashes)
    assert known.all()
    return blocks


def require_holds(kit, pool, blocks, hashes):
    """An old cached copy must not hide that a block was overwritten, so look twice."""
    assert (kit.read(pool, blocks) == kit.contents(hashes, pool.geometry)).all()
    IncoherentStore.invalidate(pool.store, 0, pool.store.size_bytes)
    IncoherentStore.fence(pool.store)
    assert (kit.read(pool, blocks) == kit.contents(hashes, pool.geometry)).all()


def small_geometry(kit, **options):
    """Rows of two lines: each line is a step."""
    rows = KvLayout.bf16(latent=48, rope=16)
    return kit.geometry_of(rows, **{"num_layers": 2, "block_tokens": 1, "blocks_per_host": 3, **options})


def small_bed(kit, seed=0, **options):
    return kit.Bed(small_geometry(kit, **options), wrap=lambda memory: SteppingStore(memory, seed))


def meet_at_every_step(make, stepping_host):
    """make(seed) -> (bed, act, meeting, after). Runs act with the meeting before every access of the stepping host."""
    for step in range(1000):
        bed, act, meeting, after = make(step)
        bed.stores[stepping_host].arm(step, meeting)
        act()
        met = bed.stores[stepping_host].disarm()
        after()
        if not met:
            assert step > 20
            return
    raise AssertionError("never done")


def a_reader_comes_while_a_writer_publishes(kit):
    def make(seed):
        bed = small_bed(kit, seed)
        old, new = kit.chain(1, 3, bed.geometry), kit.chain(2, 2, bed.geometry)
        bed.pools[0].retire(kit.put(bed.pools[0], old))
        kit.require_readable(bed.pools[1], kit.chain(3, 0, bed.geometry))

        def look():
            with bed.pools[1].lease() as lease:
                require_right(kit, bed.pools[1], lease, np.concatenate([old, new]))

        return bed, lambda: kit.put(bed.pools[0], new), look, lambda: kit.require_readable(bed.pools[1], new)

    meet_at_every_step(make, 0)


def a_reader_comes_while_an_owner_reuses(kit):
    """The lease goes on after the meeting, and what it found must stay."""

    def make(seed):
        bed = small_bed(kit, seed)
        old, new = kit.chain(1, 3, bed.geometry), kit.chain(2, 1, bed.geometry)
        kit.put(bed.pools[0], old)
        bed.pools[1].refresh()
        held = {}

        def begin():
            held["lease"] = bed.pools[1].lease()
            held["found"] = require_right(kit, bed.pools[1], held["lease"].__enter__(), old)

        def reuse():
            bed.pools[0].retire(bed.pools[0].lookup(old))
            try:
                kit.put(bed.pools[0], new)
            except PoolFullError:
                assert held, "nobody reads, and yet the pool is full"

        def go_on():
            if held:
                known, blocks = held["found"]
                require_holds(kit, bed.pools[1], blocks, old[known])
                held["lease"].__exit__(None, None, None)

        return bed, reuse, begin, go_on

    meet_at_every_step(make, 0)


def an_owner_reuses_while_a_reader_comes(kit):
    def make(seed):
        bed = small_bed(kit, seed)
        old, new = kit.chain(1, 3, bed.geometry), kit.chain(2, 3, bed.geometry)
        kit.put(bed.pools[0], old)
        kit.require_readable(bed.pools[1], old)

        def reuse():
            bed.pools[0].retire(bed.pools[0].lookup(old))
            with suppress(PoolFullError):
                kit.put(bed.pools[0], new)

        def come_and_read():
            with bed.pools[1].lease() as lease:
                require_right(kit, bed.pools[1], lease, old)

        return bed, come_and_read, reuse, come_and_read

    meet_at_every_step(make, 1)


def another_owner_retires_while_one_does(kit):
    """A third host holds a lease on the second's blocks, begun at the epoch that the first has just started."""

    def make(seed):
        bed = small_bed(kit, seed, num_hosts=3)
        first, second = kit.chain(1, 3, bed.geometry), kit.chain(2, 3, bed.geometry)
        kit.put(bed.pools[0], first)
        kit.put(bed.pools[1], second)
        bed.pools[0].refresh()
        held = {}

        def meeting():
            bed.pools[1].retire(bed.pools[1].lookup(second[2:]))
            held["lease"] = bed.pools[2].lease()
            held["found"] = require_right(kit, bed.pools[2], held["lease"].__enter__(), first)

        def retire():
            bed.pools[0].retire(bed.pools[0].lookup(first))
            with suppress(PoolFullError):
                kit.put(bed.pools[0], kit.chain(3, 3, bed.geometry))

        def go_on():
            if held:
                known, blocks = held["found"]
                require_holds(kit, bed.pools[2], blocks, first[known])
                held["lease"].__exit__(None, None, None)

        return bed, retire, meeting, go_on

    meet_at_every_step(make, 0)


def hosts_take_turns_for_long(kit):
    """Blocks are reused and the journal comes round, with readers who know the blocks from before."""
    bed = small_bed(kit)
    kept = kit.chain(0, 1, bed.geometry)
    kit.put(bed.pools[0], kept)
    for request in range(1, 20):
        hashes = kit.chain(request, 2, bed.geometry)
        blocks = kit.put(bed.pools[0], hashes)
        if request % 3:
            kit.require_readable(bed.pools[1], hashes)
        bed.pools[0].retire(blocks)
        with bed.pools[1].lease() as lease:
            assert (lease.lookup(hashes) < 0).all()
        if request % 5 == 0:
            kit.require_readable(bed.pools[1], kept)
    bed.pools[0].close()
    kit.require_readable(bed.open(0), kept)


def a_torn_entry_is_met(kit):
    bed = small_bed(kit)
    hashes = kit.chain(1, 3, bed.geometry)
    kit.put(bed.pools[0], hashes)
    bed.memory.write_bytes(
        bed.geometry.journal_offset(0) + 3 * 64 + 40, np.array([0], np.uint8)
    )  # the last entry names another block
    with bed.pools[1].lease() as lease:
        require_right(kit, bed.pools[1], lease, hashes)


def a_reader_is_fenced_off_while_it_reads(kit):
    bed = small_bed(kit)
    hashes = kit.chain(1, 3, bed.geometry)
    kit.put(bed.pools[0], hashes)
    try:
        with bed.pools[1].lease() as lease:
            blocks = lease.prefix(hashes)
            bed.pools[0].retire(blocks)
            bed.pools[0].refresh()
            bed.watch.sleep(kit.PATIENCE_S)
            kit.put(bed.pools[0], kit.chain(2, 3, bed.geometry))
            misread = False
            try:
                require_holds(kit, bed.pools[1], blocks, hashes)
            except AssertionError:
                misread = True
            assert misread, "the blocks were to be reused"
    except FencedError:
        return
    raise AssertionError("read what is no longer there, and was not told")


def a_reader_is_dead_and_another_reads_the_same(kit):
    bed = small_bed(kit, num_hosts=3)
    old, new = kit.chain(1, 3, bed.geometry), kit.chain(2, 3, bed.geometry)
    kit.put(bed.pools[0], old)
    dead, live = bed.pools[1].lease(), bed.pools[2].lease()
    dead.__enter__()
    blocks = require_all(kit, bed.pools[2], live.__enter__(), old)
    bed.pools[0].retire(blocks)
    bed.pools[0].refresh()
    bed.watch.sleep(kit.PATIENCE_S)
    bed.pools[2].beat()
    with suppress(PoolFullError):
        kit.put(bed.pools[0], new)
    require_holds(kit, bed.pools[2], blocks, old)
    live.__exit__(None, None, None)
    kit.put(bed.pools[0], new)
    kit.require_readable(bed.pools[2], new)


def an_owner_dies_while_it_retires_and_a_reader_reads_on(kit):
    """The lease outlives the owner, and is of the very epoch that the owner died in; the successor wants all the blocks."""

    def make(seed):
        bed = small_bed(kit, seed)
        old, new = kit.chain(1, 3, bed.geometry), kit.chain(2, 3, bed.geometry)
        kit.put(bed.pools[0], old)
        lease = bed.pools[1].lease()
        blocks = require_all(kit, bed.pools[1], lease.__enter__(), old)

        def retire():
            with suppress(HostDied):
                bed.pools[0].retire(blocks)

        def time_passes(seconds):
            bed.watch.sleep(seconds)
            bed.pools[1].beat()

        def take_over():
            if seed % 4 > 1:
                bed.stores[0].write_back_everything()
            bed.stores[0].lose_cache()
            successor = bed.open(0, sleep=time_passes)
            left = successor.lookup(old)
            successor.retire(left[left >= 0])
            with suppress(PoolFullError):
                kit.put(successor, new[:1])
            require_holds(kit, bed.pools[1], blocks, old)
            lease.__exit__(None, None, None)
            kit.put(successor, new[1:])
            kit.require_readable(bed.pools[1], new[1:])

        return bed, retire, die, take_over

    meet_at_every_step(make, 0)


def a_creator_dies_and_others_open_what_it_left(kit):
    """All hosts of the pool that it replaces had written both their state lines."""
    geometry = small_geometry(kit, num_hosts=4, num_layers=1)
    old = kit.chain(1, 2, geometry)
    for step in range(1000):
        for seed in range(step, step + 4):
            memory = kit.memory_for(geometry)
            kit.put(kit.create(memory, geometry), old)
            for host in range(1, geometry.num_hosts):
                Pool.open(memory, host=host).beat()
            old_id = pool_format.read_superblock(memory)[1]
            creator = SteppingStore(memory, seed)
            creator.arm(step, die)
            with suppress(HostDied):
                kit.create(creator, geometry, replace=True)
            died = creator.disarm()
            if seed % 4 == 3:
                creator.write_back_everything()
            kit.require_old_pool_or_new_or_none(memory, old_id, old)
        if not died:
            assert step > 20
            return
    raise AssertionError("never done")


MEETINGS = [  # the quick ones first: the last are spared where something is broken
    a_torn_entry_is_met,
    a_reader_is_fenced_off_while_it_reads,
    a_reader_is_dead_and_another_reads_the_same,
    hosts_take_turns_for_long,
    an_owner_reuses_while_a_reader_comes,
    a_reader_comes_while_an_owner_reuses,
    an_owner_dies_while_it_retires_and_a_reader_reads_on,
    a_reader_comes_while_a_writer_publishes,
    a_creator_dies_and_others_open_what_it_left,
    another_owner_retires_while_one_does,
]


@pytest.mark.parametrize("meeting", MEETINGS, ids=lambda meeting: meeting.__name__)
def test_nobody_misreads_when(kit, meeting):
    meeting(kit)


def test_a_block_is_published_to_the_letter_of_the_recipe(kit):
    """The recipe of pool.py. No meeting can miss every fence of it: those of the looks at fence marks stand in for some."""
    bed = small_bed(kit)
    bed.stores[0].trail.clear()
    kit.put(bed.pools[0], kit.chain(1, 1, bed.geometry))
    recipe = []
    for part in ("rows", "journal", "state"):
        recipe += [f"write {part}", f"flush {part}", "fence"]
    assert accesses_that_write(bed.stores[0].trail) == recipe


def accesses_that_write(trail):
    """The accesses of a trail without reads, the invalidations before them, the fences of these and repetitions."""
    kept, invalidated = [], False
    for access in trail:
        if access.startswith("invalidate"):
            invalidated = True
        elif access == "fence" and invalidated:
            invalidated = False
        elif not access.startswith("read") and access != "write line" and kept[-1:] != [access]:
            kept.append(access)
    return kept


# -- broken on purpose -------------------------------------------------------------------------------------------------------------


def forget(method, where):
    """Breakage: the store's method is not called for the given part of memory."""

    def break_it(patch):
        whole = getattr(SteppingStore, method)

        def forgetful(self, offset, size_bytes):
            if part_of(self, offset) != where:
                whole(self, offset, size_bytes)

        patch.setattr(SteppingStore, method, forgetful)

    return break_it


def no_fences(patch):
    patch.setattr(SteppingStore, "fence", lambda self: None)


def entries_before_rows(patch):
    flush, append = Pool._flush, JournalWriter.append

    def publish_late(self, blocks):
        self._late = blocks

    def append_early(self, entries):
        append(self, entries)
        pool = self._commit.__self__
        if getattr(pool, "_late", None) is not None:
            flush(pool, pool._late)

    patch.setattr(Pool, "_flush", publish_late)
    patch.setattr(JournalWriter, "append", append_early)


def head_before_entries(patch):
    def put(self, entries):
        sequences = np.arange(self.head, self.head + len(entries), dtype=np.uint64)
        entries["sequence"] = sequences
        entries["publication"] = np.where(entries["publication"] == 0, sequences, entries["publication"])
        self.head += len(entries)
        self._commit(entries, self.head)
        self._journal.write(entries)

    patch.setattr(JournalWriter, "_put", put)


class Without:
    """A store one method of which does nothing."""

    def __init__(self, store, method):
        self._store, self._method = store, method

    def __getattr__(self, name):
        return self._do_nothing if name == self._method else getattr(self._store, name)

    def _do_nothing(self, *_):
        pass


def without(method, owner, function):
    """Breakage: `function` of `owner` does all that it does, but for calls of `method` of the store that it is given first."""

    def break_it(patch):
        whole = getattr(owner, function)
        patch.setattr(owner, function, lambda store, *arguments: whole(Without(store, method), *arguments))

    return break_it


def flushed_before_written(patch):
    def write_lines(store, offset, to_write, salt):
        to_write["checksum"] = lines.checksum(to_write, salt)
        raw = to_write.view(np.uint8)
        store.flush(offset, raw.size)
        store.write_bytes(offset, raw)
        store.fence()

    for module in (lines, journal, hosts, pool_format):
        patch.setattr(module, "write_lines", write_lines)


def entries_and_head_in_one_fence(patch):
    """With the look for marks between them, which has a fence of its own, out of the way."""
    without("fence", journal, "write_lines")(patch)
    patch.setattr(Hosts, "write", Hosts._write)


def rows_not_fenced(patch):
    def flush(self, blocks):
        for offset, size_bytes in self._block_rows.byte_ranges(blocks):
            self.store.flush(offset, size_bytes)

    patch.setattr(Pool, "_flush", flush)


def live_leases_ignored_once_a_dead_host_is_fenced(patch):
    def reclaim(self, count):
        view = self._hosts.look()
        self._arena.reclaim(view.oldest_epoch_read)
        if count > self._arena.num_free and self._hosts.fence_silent(view, view.counted):
            self._arena.reclaim(lines.NO_LEASE)

    patch.setattr(Pool, "_reclaim", reclaim)


def no_epoch_begun_on_joining(patch):
    join = Pool._join

    def join_quietly(self, sleep):
        self._hosts.begin_epoch = lambda: self._hosts.look().epoch
        join(self, sleep)
        del self._hosts.begin_epoch

    patch.setattr(Pool, "_join", join_quietly)


def superblock_before_hosts_are_erased(patch):
    write, erase = pool_format.write_superblock, hosts.erase

    def write_and_erase(store, geometry):
        pool_id = write(store, geometry)
        erase(store, geometry)
        return pool_id

    patch.setattr(pool_format, "write_superblock", write_and_erase)
    patch.setattr(hosts, "erase", lambda store, geometry: None)


def old_superblock_not_erased(patch):
    patch.setattr(pool_format, "erase_superblock", lambda store: None)


def lease_announced_too_late(patch):
    def begin(self, number):
        self._catch_up()
        self._epochs[number] = self._directory.epoch
        self._announce()

    patch.setattr(Leases, "_begin", begin)


def leases_ignored(patch):
    patch.setattr(HostsView, "oldest_epoch_read", lines.NO_LEASE)


def epoch_of_the_last_refresh(patch):
    catch_up = Directory.catch_up

    def catch_up_and_note(self, look):
        view = catch_up(self, look)
        look.__self__.last_seen = view.epoch
        return view

    def begin(self):
        self.write(epoch=self.last_seen + 1)
        return self.last_seen + 1

    patch.setattr(Directory, "catch_up", catch_up_and_note)
    patch.setattr(Hosts, "begin_epoch", begin)


def ring_overwrites_live_entries(patch):
    def carry(self):
        self._tail += self._batch

    patch.setattr(JournalWriter, "_carry_one_batch", carry)


def checksums_not_looked_at(patch):
    def read(self, first, stop):
        for start, end in self._pieces(first, stop):
            yield lines.read_lines(self._store, self._slot_offset(start), end - start, lines.ENTRY), 0, 0

    patch.setattr(Journal, "read", read)


def layers_one_row_off(patch):
    patch.setattr(
        RowTable, "rows", lambda self, layer, tokens: self.first_layer[tokens] + layer * (self.layer_rows - 1)
    )


def blocks_invalidated_once_for_ever(patch):
    lookup_under = Leases.lookup_under

    def lazy(self, *arguments, **options):
        known = (self._cached > 0) & (self._directory.publications > 0)
        self._cached[known] = self._directory.publications[known]
        return lookup_under(self, *arguments, **options)

    patch.setattr(Leases, "lookup_under", lazy)


def fence_marks_not_looked_for(patch):
    patch.setattr(Hosts, "require_unfenced", lambda self: None)


BREAKAGES = {
    "flush of rows dropped": forget("flush", "rows"),
    "flush of journal dropped": forget("flush", "journal"),
    "flush of state dropped": forget("flush", "state"),
    "invalidation of rows dropped": forget("invalidate", "rows"),
    "invalidation of journal dropped": forget("invalidate", "journal"),
    "invalidation of state dropped": forget("invalidate", "state"),
    "fences dropped": no_fences,
    "journal before rows": entries_before_rows,
    "head before entries": head_before_entries,
    "lines flushed before they are written": flushed_before_written,
    "entries and head in one fence": entries_and_head_in_one_fence,
    "journals not followed after the lease is announced": lease_announced_too_late,
    "leases ignored": leases_ignored,
    "live leases ignored once a dead host is fenced": live_leases_ignored_once_a_dead_host_is_fenced,
    "no epoch begun on joining": no_epoch_begun_on_joining,
    "retired at an old epoch": epoch_of_the_last_refresh,
    "ring overwrites live entries": ring_overwrites_live_entries,
    "checksums not looked at": checksums_not_looked_at,
    "layer offset one row off": layers_one_row_off,
    "blocks invalidated once for ever": blocks_invalidated_once_for_ever,
    "fence marks not looked for": fence_marks_not_looked_for,
    "superblock before hosts are erased": superblock_before_hosts_are_erased,
    "old superblock not erased": old_superblock_not_erased,
    "old superblock's erasure not flushed": without("flush", pool_format, "erase_superblock"),
    "old superblock's erasure not fenced": without("fence", pool_format, "erase_superblock"),
    "erasure of hosts not flushed": without("flush", hosts, "erase"),
    "erasure of hosts not fenced": without("fence", hosts, "erase"),
}


ONLY_AGAINST_THE_RECIPE = {
    "entries not fenced": without("fence", journal, "write_lines"),
    "rows not fenced": rows_not_fenced,
}


def fails(meeting, kit):
    try:
        meeting(kit)
    except (AssertionError, SacError):
        return True
    return False


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_the_meetings_notice(kit, monkeypatch, breakage):
    BREAKAGES[breakage](monkeypatch)
    assert any(fails(meeting, kit) for meeting in MEETINGS)


@pytest.mark.parametrize("breakage", ONLY_AGAINST_THE_RECIPE)
def test_the_recipe_notices(kit, monkeypatch, breakage):
    ONLY_AGAINST_THE_RECIPE[breakage](monkeypatch)
    assert fails(test_a_block_is_published_to_the_letter_of_the_recipe, kit)

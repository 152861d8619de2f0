"""Hosts meet at every step of what they do, over caches that nothing keeps coherent; and code broken on purpose is found out.

Each meeting stops one host before its k-th access to memory, lets another act, and goes on; for every k. The pool as it is passes
them all. Then one thing is broken at a time, and some meeting must fail."""

from contextlib import suppress

import numpy as np
import pytest

from emulation.stores.incoherent import IncoherentStore
from sac_runtime import lines
from sac_runtime.errors import FencedError, PoolFullError, SacError
from sac_runtime.hosts import Hosts, HostsView
from sac_runtime.journal import Journal, JournalWriter
from sac_runtime.placement import RowTable
from sac_runtime.pool import Pool


class SteppingStore(IncoherentStore):
    """Calls `meeting` once, before the step-th access from arm() on."""

    def __init__(self, memory):
        super().__init__(memory, prefetch=0.5)
        self._countdown, self._meeting = -1, None

    def arm(self, step, meeting):
        self._countdown, self._meeting = step, meeting

    def disarm(self):
        """Whether the meeting took place."""
        met, self._countdown = self._countdown < 0, -1
        return met

    def _step(self):
        self._countdown -= 1
        if self._countdown == -1:
            self._meeting()

    def read_rows(self, rows, out):
        self._step()
        return super().read_rows(rows, out)

    def write_rows(self, rows, values):
        self._step()
        return super().write_rows(rows, values)

    def read_bytes(self, offset, out):
        self._step()
        super().read_bytes(offset, out)

    def write_bytes(self, offset, values):
        self._step()
        super().write_bytes(offset, values)

    def flush(self, offset, size_bytes):
        self._step()
        super().flush(offset, size_bytes)

    def invalidate(self, offset, size_bytes):
        self._step()
        super().invalidate(offset, size_bytes)

    def fence(self):
        self._step()
        super().fence()


def require_right(kit, pool, lease, hashes):
    """What is found of `hashes` holds what it should, in the host's cache and in memory. Returns which are found, and where."""
    found = lease.lookup(hashes)
    known = found >= 0
    require_holds(kit, pool, found[known], hashes[known])
    return known, found[known]


def require_holds(kit, pool, blocks, hashes):
    """An old cached copy must not hide that a block was overwritten, so look twice."""
    assert (kit.read(pool, blocks) == kit.contents(hashes, pool.geometry)).all()
    IncoherentStore.invalidate(pool.store, 0, pool.store.size_bytes)
    IncoherentStore.fence(pool.store)
    assert (kit.read(pool, blocks) == kit.contents(hashes, pool.geometry)).all()


def small_bed(kit, **options):
    options = {"num_layers": 2, "block_tokens": 1, "blocks_per_host": 3, **options}
    return kit.Bed(kit.geometry_of(**options), wrap=SteppingStore)


def meet_at_every_step(make, stepping_host):
    """make() -> (bed, act, meeting, after). Runs act with the meeting before every access of the stepping host."""
    for step in range(1000):
        bed, act, meeting, after = make()
        bed.stores[stepping_host].arm(step, meeting)
        act()
        met = bed.stores[stepping_host].disarm()
        after()
        if not met:
            assert step > 20
            return
    raise AssertionError("never done")


def a_reader_comes_while_a_writer_publishes(kit):
    def make():
        bed = small_bed(kit)
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

    def make():
        bed = small_bed(kit)
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
    def make():
        bed = small_bed(kit)
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

    def make():
        bed = small_bed(kit, num_hosts=3)
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


MEETINGS = [
    a_reader_comes_while_a_writer_publishes,
    a_reader_comes_while_an_owner_reuses,
    an_owner_reuses_while_a_reader_comes,
    another_owner_retires_while_one_does,
    hosts_take_turns_for_long,
    a_torn_entry_is_met,
    a_reader_is_fenced_off_while_it_reads,
]


@pytest.mark.parametrize("meeting", MEETINGS, ids=lambda meeting: meeting.__name__)
def test_nobody_misreads_when(kit, meeting):
    meeting(kit)


# -- broken on purpose -------------------------------------------------------------------------------------------------------------


def forget(method, where):
    """Breakage: the store's method is not called for the given part of memory."""

    def break_it(patch):
        whole = getattr(SteppingStore, method)

        def forgetful(self, offset, size_bytes):
            geometry_metadata = self.rows_offset
            journals = 8192  # pages of superblock and hosts lie before
            part = "rows" if offset >= geometry_metadata else "journal" if offset >= journals else "state"
            if part != where:
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


def lease_announced_too_late(patch):
    def begin(self, number):
        self.refresh()
        self._leases[number] = self._epoch
        self._announce()

    patch.setattr(Pool, "_begin_lease", begin)


def leases_ignored(patch):
    patch.setattr(HostsView, "oldest_epoch_read", lines.NO_LEASE)


def epoch_of_the_last_refresh(patch):
    def begin(self):
        self._hosts.write(epoch=self._epoch + 1)
        return self._epoch + 1

    patch.setattr(Pool, "_begin_epoch", begin)


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
    under_lease = Pool._under_lease

    def lazy(self, *arguments, **options):
        known = (self._fresh > 0) & (self._directory.publications > 0)
        self._fresh[known] = self._directory.publications[known]
        return under_lease(self, *arguments, **options)

    patch.setattr(Pool, "_under_lease", lazy)


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
    "journals not followed after the lease is announced": lease_announced_too_late,
    "leases ignored": leases_ignored,
    "retired at an old epoch": epoch_of_the_last_refresh,
    "ring overwrites live entries": ring_overwrites_live_entries,
    "checksums not looked at": checksums_not_looked_at,
    "layer offset one row off": layers_one_row_off,
    "blocks invalidated once for ever": blocks_invalidated_once_for_ever,
    "fence marks not looked for": fence_marks_not_looked_for,
}


def finders(kit):
    """Which meetings fail."""
    found_by = []
    for meeting in MEETINGS:
        try:
            meeting(kit)
        except (AssertionError, SacError):
            found_by.append(meeting.__name__)
    return found_by


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_the_meetings_notice(kit, monkeypatch, breakage):
    BREAKAGES[breakage](monkeypatch)
    assert finders(kit)

"""One thing of the pool is broken at a time, and some meeting must fail. The pool as it is passes them all: test_pool_meetings."""

import numpy as np
import pytest

from emulation.faults.schedule import SteppingStore
from sac_runtime.errors import SacError
from sac_runtime.pool import format as pool_format
from sac_runtime.pool import hosts, journal, lines
from sac_runtime.pool.directory import Directory
from sac_runtime.pool.hosts import Hosts, HostsView
from sac_runtime.pool.journal import Journal, JournalWriter
from sac_runtime.pool.lease import Leases
from sac_runtime.pool.pool import Pool
from sac_runtime.pool.room import Room
from sac_runtime.rows.placement import RowTable
from tests.support.pool_meetings import MEETINGS, a_block_is_published_to_the_letter_of_the_recipe


def forget(method, where):
    """Breakage: the store's method is not called for the given part of memory."""

    def break_it(patch):
        whole = getattr(SteppingStore, method)

        def forgetful(self, offset, size_bytes):
            if self.part_of(offset) != where:
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

    patch.setattr(Room, "_reclaim", reclaim)


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
            entries = lines.read_lines(self._store, self._slot_offset(start), end - start, lines.ENTRY)
            yield journal.JournalPiece(entries, 0, 0)

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


def fails(meeting):
    try:
        meeting()
    except (AssertionError, SacError):
        return True
    return False


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_the_meetings_notice(monkeypatch, breakage):
    BREAKAGES[breakage](monkeypatch)
    assert any(fails(meeting) for meeting in MEETINGS)


@pytest.mark.parametrize("breakage", ONLY_AGAINST_THE_RECIPE)
def test_the_recipe_notices(monkeypatch, breakage):
    ONLY_AGAINST_THE_RECIPE[breakage](monkeypatch)
    assert fails(a_block_is_published_to_the_letter_of_the_recipe)

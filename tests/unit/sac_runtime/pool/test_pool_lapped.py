"""Journals that come round while somebody reads them, and host numbers that two processes take at once."""

import threading
from contextlib import suppress

import numpy as np
import pytest

from emulation.stores.incoherent import IncoherentStore
from sac_runtime.errors import FencedError, PoolFullError, SacError
from sac_runtime.pool.directory import _HashIndex
from sac_runtime.pool.pool import Pool
from tests.support.pool import Fleet, chain, geometry_of, put, require_readable


class HookedStore(IncoherentStore):
    """Calls `hook` with the offset before each read, of each line if `by_line`: a long read is not atomic."""

    hook, by_line = None, False

    def read_bytes(self, offset, out):
        step = 64 if self.by_line else max(1, out.size)
        for start in range(0, out.size, step):
            if self.hook is not None:
                self.hook(offset + start)
            super().read_bytes(offset + start, out[start : start + step])


@pytest.mark.parametrize("by_line", [True, False], ids=["between-lines", "between-reads"])
@pytest.mark.parametrize("lag", [9, 12, 15])
def test_a_reader_that_is_lapped_once_more_while_it_reads_anew_finds_nothing_retired(lag, by_line):
    """A tombstone that was overwritten before it was read must not leave its block published in that reader."""
    for read_number in range(1, 14 if by_line else 5):
        for cycles in (2, 3, 5):
            fleet = Fleet(geometry_of(num_layers=1, block_tokens=1, blocks_per_host=4), wrap=HookedStore)
            (owner, reader), geometry = fleet.pools.values(), fleet.geometry
            requests = iter(range(1000))

            def publish_and_retire(times, owner=owner, requests=requests, geometry=geometry):
                with suppress(PoolFullError):  # at the reads that follow the lease's announcement
                    for _ in range(times):
                        owner.retire(put(owner, chain(next(requests), 1, geometry)))

            publish_and_retire(lag)
            hashes = chain(5000, 1, geometry)
            block = put(owner, hashes)
            owner.retire(block)
            taken = owner.allocate(4)
            owner.free(taken[taken != block[0]])  # the block is held again, and about to be written
            publish_and_retire(5)
            seen = iter(range(1, 1000))
            journal = range(geometry.journal_offset(0), geometry.journal_offset(1))

            def hook(offset, when=read_number, times=cycles, journal=journal, seen=seen, act=publish_and_retire):
                if offset in journal and next(seen) == when:
                    act(times)

            fleet.stores[1].hook, fleet.stores[1].by_line = hook, by_line
            with reader.lease() as lease:
                fleet.stores[1].hook = None
                assert lease.lookup(hashes).tolist() == [-1], (read_number, cycles)


class Alternation:
    """Two threads take turns, one access to memory each."""

    def __init__(self):
        self.changed = threading.Condition()
        self.turn, self.running = 0, [True, True]

    def step(self, own):
        with self.changed:
            self.turn = 1 - own if self.running[1 - own] else own
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.turn == own or not self.running[1 - own], timeout=60)

    def end(self, own):
        with self.changed:
            self.running[own] = False
            self.turn = 1 - own
            self.changed.notify_all()


class AlternatingStore(IncoherentStore):
    def __init__(self, memory, alternation, own):
        super().__init__(memory)
        self.alternation, self.own = alternation, own

    def fence(self):
        self.alternation.step(self.own)
        super().fence()

    def read_bytes(self, offset, out):
        self.alternation.step(self.own)
        super().read_bytes(offset, out)

    def write_bytes(self, offset, values):
        self.alternation.step(self.own)
        super().write_bytes(offset, values)


def test_of_two_processes_that_open_one_host_at_once_only_one_publishes():
    fleet = Fleet(geometry_of(num_layers=1, block_tokens=1))
    fleet.pools[0].close()
    alternation, outcomes = Alternation(), {}

    def open_and_put(own):
        store = AlternatingStore(fleet.memory, alternation, own)
        hashes = chain(own, 1, fleet.geometry)
        try:
            pool = Pool.open(store, host=0, clock_ns=fleet.watch)
            outcomes[own] = put(pool, hashes).tolist()
        except SacError as error:
            outcomes[own] = error
        finally:
            alternation.end(own)

    threads = [threading.Thread(target=open_and_put, args=(own,)) for own in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    (loser,) = [own for own, outcome in outcomes.items() if isinstance(outcome, FencedError)]
    assert "was replaced by another process" in str(outcomes[loser])
    require_readable(fleet.pools[1], chain(1 - loser, 1, fleet.geometry))
    assert fleet.pools[1].lookup(chain(loser, 1, fleet.geometry)).tolist() == [-1]


def test_an_index_forgets_places_of_the_larger_table_that_it_had():
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, (100_000, 2), dtype=np.uint64)
    index, everything, few = _HashIndex(hashes), np.arange(100_000), np.arange(1000)
    index.add(everything)
    largest = len(index._table)
    index.remove(everything)
    while len(index._table) == largest:
        hashes[few] = random.integers(0, 2**63, (few.size, 2), dtype=np.uint64)
        index.add(few)
        index.remove(few)
    assert len(index._table) < largest
    assert index._places.max() < len(index._table)
    index.add(everything[-50:])
    assert index.find(hashes[-50:]).tolist() == everything[-50:].tolist()

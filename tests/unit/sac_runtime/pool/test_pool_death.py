"""A host dies before every single step of what it does to memory, and nobody loses or misreads anything.

A step is 8 bytes of a metadata write, one row, one flush or the fence after it; or one of the lines that its cache writes to memory
at a fence or before. After the death its cache is lost (power), or written back in the end (the process alone died); both must
do."""

from contextlib import suppress

import numpy as np
import pytest

from emulation.faults.schedule import HostDeath
from emulation.stores.incoherent import IncoherentStore
from sac_runtime.errors import FencedError
from sac_runtime.pool import format as pool_format
from sac_runtime.rows.layout import LINE_BYTES, KvLayout
from tests.support.pool import (
    PATIENCE_S,
    Fleet,
    chain,
    contents,
    create,
    geometry_of,
    memory_for,
    put,
    read,
    require_old_pool_or_new_or_none,
)

REQUESTS = range(1, 8)


class MortalStore:
    """Passes everything on to `store`, and dies before step `dies_at`."""

    def __init__(self, store, dies_at=None):
        self._store, self._dies_at = store, dies_at
        self.steps = 0
        self._unfenced = False

    def __getattr__(self, name):
        return getattr(self._store, name)

    def write_bytes(self, offset, values):
        survived = self._survive(-(-values.size // 8))
        self._store.write_bytes(offset, values[: 8 * survived])
        self._die_if_due()

    def write_rows(self, rows, values):
        survived = self._survive(len(rows))
        self._store.write_rows(rows[:survived], values[:survived])
        self._die_if_due()
        return 0

    def flush(self, offset, size_bytes):
        self._survive(1)
        self._die_if_due()
        self._store.flush(offset, size_bytes)
        self._unfenced = True

    def fence(self):
        if self._unfenced:  # a fence between reads changes nothing that a death could leave
            self._survive(1)
            self._die_if_due()
        self._unfenced = False
        self._store.fence()

    def survives(self):
        """No death any more: the next host may use it."""
        self._dies_at = None

    def _survive(self, steps):
        """How many of the next steps are taken."""
        before, self.steps = self.steps, self.steps + steps
        return steps if self._dies_at is None else min(steps, max(0, self._dies_at - before))

    def _die_if_due(self):
        if self._dies_at is not None and self.steps >= self._dies_at:
            raise HostDeath


class Life:
    """What a host does before it dies, and what it was told was done."""

    def __init__(self, geometry):
        self._geometry = geometry
        self.published, self.retiring, self.retired = [], [], []

    def live(self, pool):
        """Each kind of write there is, with the journal coming round and blocks being reused."""
        self._put(pool, 1, 1)
        self._put(pool, 2, 1)
        for request in REQUESTS[2:]:
            self._put(pool, request, 1)
            self._retire(pool, request)
        with pool.lease() as lease:
            lease.lookup(self._chain(1, 1))
        pool.beat()
        pool.close()

    def _chain(self, request, num_blocks):
        return chain(request, num_blocks, self._geometry)

    def _put(self, pool, request, num_blocks):
        put(pool, self._chain(request, num_blocks))
        self.published.append(request)

    def _retire(self, pool, request):
        self.retiring.append(request)
        pool.retire(pool.lookup(self._chain(request, 1)))
        self.retired.append(request)

    def require_kept(self, pool):
        """All that was published, and not being retired, is there; what was retired is not; what is found is right."""
        hashes = np.concatenate([self._chain(request, 1) for request in REQUESTS])
        with pool.lease() as lease:
            found = lease.lookup(hashes) >= 0
            seen = read(pool, lease.lookup(hashes)[found])
        assert (seen == contents(hashes[found], self._geometry)).all()
        for request, is_found in zip(REQUESTS, found, strict=True):
            assert is_found or request not in self.published or request in self.retiring, f"request {request} is lost"
            assert not is_found or request not in self.retired, f"request {request} was retired and is found"


def fleet_and_steps():
    geometry = geometry_of(num_layers=1, block_tokens=1, blocks_per_host=3)
    fleet = Fleet(geometry)
    fleet.pools[0].close()
    counting = MortalStore(fleet.stores[0])
    Life(geometry).live(fleet.open(0, counting))
    assert fleet.pools[0]._journal.head > geometry.journal_slots
    return geometry, counting.steps


@pytest.mark.parametrize("aftermath", ["power lost", "lines written back"])
def test_a_host_may_die_before_any_step_of_its_life(aftermath):
    geometry, num_steps = fleet_and_steps()
    for dies_at in range(num_steps):
        fleet = Fleet(geometry)
        fleet.pools[0].close()
        life = Life(geometry)
        with pytest.raises(HostDeath):
            life.live(fleet.open(0, MortalStore(fleet.stores[0], dies_at)))
        require_kept_after_death(fleet, life, aftermath)


@pytest.mark.parametrize("aftermath", ["power lost", "lines written back"])
def test_a_host_may_die_between_two_lines_that_its_cache_writes(aftermath):
    """In any order, some of them before their fence."""
    rows = KvLayout.bf16(latent=48, rope=16)  # of two lines each
    geometry = geometry_of(rows, num_layers=1, block_tokens=1, blocks_per_host=3)
    for line in range(1000):
        fleet = Fleet(geometry)
        fleet.pools[0].close()
        memory = MortalStore(fleet.memory, line * LINE_BYTES // 8)
        fleet.stores[0] = IncoherentStore(memory, seed=line, flush_early=line % 2 / 2)
        life = Life(geometry)
        try:
            life.live(fleet.open(0))
            break
        except HostDeath:
            memory.survives()
        require_kept_after_death(fleet, life, aftermath)
    assert 50 < line < 999


def require_kept_after_death(fleet, life, aftermath):
    if aftermath == "lines written back":
        fleet.stores[0].write_back_everything()
    fleet.stores[0].lose_cache()

    life.require_kept(fleet.pools[1])
    successor = fleet.open(0)
    life.require_kept(successor)
    kept = successor.num_published
    assert len(successor.allocate(3 - kept)) == 3 - kept, "blocks were lost"
    life.require_kept(fleet.pools[1])


def test_a_host_may_die_again_while_it_takes_over():
    geometry, num_steps = fleet_and_steps()
    for dies_at in range(0, num_steps, 25):
        fleet = Fleet(geometry)
        fleet.pools[0].close()
        life = Life(geometry)
        with pytest.raises(HostDeath):
            life.live(fleet.open(0, MortalStore(fleet.stores[0], dies_at)))
        for dies_again_at in range(100):
            fleet.stores[0].lose_cache()
            try:
                fleet.open(0, MortalStore(fleet.stores[0], dies_again_at))
            except HostDeath:
                continue
            break
        else:
            pytest.fail("never came to life")
        life.require_kept(fleet.open(0))
        life.require_kept(fleet.pools[1])


def test_a_creator_may_die_before_any_step_and_leaves_a_whole_pool_or_none():
    geometry = geometry_of(num_layers=1, block_tokens=1, blocks_per_host=3)
    old = chain(1, 2, geometry)
    whole = 0
    for before in (False, True):
        for dies_at in range(1000):
            memory = memory_for(geometry)
            old_id = None
            if before:
                put(create(memory, geometry), old)
                old_id = pool_format.read_superblock(memory)[1]
            host = IncoherentStore(memory)
            try:
                create(MortalStore(host, dies_at), geometry, replace=True)
                break
            except HostDeath:
                host.lose_cache()
            whole += pool_format.holds_pool(memory)
            require_old_pool_or_new_or_none(memory, old_id, old)
        else:
            pytest.fail("never created")
    assert whole > 0


def test_a_fencer_may_die_before_any_step():
    """Either nobody sees the mark and nothing was reused, or all see it; half a mark may be one to the host that it is for."""
    for dies_at in range(1000):
        fleet = Fleet(geometry_of(num_hosts=3, num_layers=1, block_tokens=1, blocks_per_host=3))
        hashes = chain(1, 3, fleet.geometry)
        fleet.pools[0].close()
        store = MortalStore(fleet.stores[0])
        fencer = fleet.open(0, store)
        blocks = put(fencer, hashes)
        lease = fleet.pools[1].lease()
        lease.__enter__().prefix(hashes)
        fencer.retire(blocks)
        fencer.refresh()
        fleet.watch.sleep(PATIENCE_S)
        store._dies_at = store.steps + dies_at
        try:
            put(fencer, chain(2, 3, fleet.geometry))
        except HostDeath:
            fleet.stores[0].write_back_everything()
        fenced = bool(fleet.pools[2]._hosts.look().fenced[1])
        seen = read(fleet.pools[1], blocks)
        if fenced:
            with pytest.raises(FencedError):
                lease.__exit__(None, None, None)
        else:
            with suppress(FencedError):
                lease.__exit__(None, None, None)
            assert (seen == contents(hashes, fleet.geometry)).all()
        if store.steps < store._dies_at:
            return
    pytest.fail("never done")


def test_steps_are_counted_down_to_the_word():
    memory = memory_for(geometry_of())
    store = MortalStore(memory, dies_at=3)
    with pytest.raises(HostDeath):
        store.write_bytes(0, np.full(64, 7, np.uint8))
    out = np.empty(64, np.uint8)
    memory.read_bytes(0, out)
    assert out.tolist() == [7] * 24 + [0] * 40

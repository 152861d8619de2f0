"""The meetings that a pool must survive: each fails by an AssertionError or a SacError if somebody loses or misreads a block.

Each stops one host before its k-th step, be it one line that its cache writes to memory; lets another act, or lets the host die
there; and goes on; for every k. A few tell one story from end to end. MEETINGS has them all."""

from contextlib import suppress

import numpy as np

from emulation.faults.schedule import Encounter, SteppingStore, die, meet_at_every_step, write_steps
from emulation.stores.incoherent import IncoherentStore
from sac_runtime.errors import FencedError, PoolFullError
from sac_runtime.pool import format as pool_format
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import PAGE_BYTES, KvLayout
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
    require_readable,
)

FEWEST_STEPS = 20  # an act that takes fewer does not do what it says


def stepping(memory, seed=0):
    """A store of steps with the parts of a pool in its trail. Superblock and hosts have a page each in these pools, the journals
    those up to the rows."""

    def part_of(offset):
        if offset >= memory.rows_offset:
            return "rows"
        return ("superblock", "state", "journal")[min(offset // PAGE_BYTES, 2)]

    return SteppingStore(memory, seed, part_of)


def require_right(pool, lease, hashes):
    """What is found of `hashes` holds what it should, in the host's cache and in memory. Returns which are found, and where."""
    found = lease.lookup(hashes)
    known = found >= 0
    require_holds(pool, found[known], hashes[known])
    return known, found[known]


def require_all(pool, lease, hashes):
    """All of `hashes` are found and right. Returns where."""
    known, blocks = require_right(pool, lease, hashes)
    assert known.all()
    return blocks


def require_holds(pool, blocks, hashes):
    """An old cached copy must not hide that a block was overwritten, so look twice."""
    assert (read(pool, blocks) == contents(hashes, pool.geometry)).all()
    IncoherentStore.invalidate(pool.store, 0, pool.store.size_bytes)
    IncoherentStore.fence(pool.store)
    assert (read(pool, blocks) == contents(hashes, pool.geometry)).all()


def small_geometry(**options):
    """Rows of two lines: each line is a step."""
    rows = KvLayout.bf16(latent=48, rope=16)
    return geometry_of(rows, **{"num_layers": 2, "block_tokens": 1, "blocks_per_host": 3, **options})


def small_fleet(seed=0, **options):
    return Fleet(small_geometry(**options), wrap=lambda memory: stepping(memory, seed))


def a_reader_comes_while_a_writer_publishes():
    def make(seed):
        fleet = small_fleet(seed)
        old, new = chain(1, 3, fleet.geometry), chain(2, 2, fleet.geometry)
        fleet.pools[0].retire(put(fleet.pools[0], old))
        require_readable(fleet.pools[1], chain(3, 0, fleet.geometry))

        def look():
            with fleet.pools[1].lease() as lease:
                require_right(fleet.pools[1], lease, np.concatenate([old, new]))

        return Encounter(
            fleet.stores[0], lambda: put(fleet.pools[0], new), look, lambda: require_readable(fleet.pools[1], new)
        )

    assert meet_at_every_step(make) > FEWEST_STEPS


def a_reader_comes_while_an_owner_reuses():
    """The lease goes on after the meeting, and what it found must stay."""

    def make(seed):
        fleet = small_fleet(seed)
        old, new = chain(1, 3, fleet.geometry), chain(2, 1, fleet.geometry)
        put(fleet.pools[0], old)
        fleet.pools[1].refresh()
        held = {}

        def begin():
            held["lease"] = fleet.pools[1].lease()
            held["found"] = require_right(fleet.pools[1], held["lease"].__enter__(), old)

        def reuse():
            fleet.pools[0].retire(fleet.pools[0].lookup(old))
            try:
                put(fleet.pools[0], new)
            except PoolFullError:
                assert held, "nobody reads, and yet the pool is full"

        def go_on():
            if held:
                known, blocks = held["found"]
                require_holds(fleet.pools[1], blocks, old[known])
                held["lease"].__exit__(None, None, None)

        return Encounter(fleet.stores[0], reuse, begin, go_on)

    assert meet_at_every_step(make) > FEWEST_STEPS


def an_owner_reuses_while_a_reader_comes():
    def make(seed):
        fleet = small_fleet(seed)
        old, new = chain(1, 3, fleet.geometry), chain(2, 3, fleet.geometry)
        put(fleet.pools[0], old)
        require_readable(fleet.pools[1], old)

        def reuse():
            fleet.pools[0].retire(fleet.pools[0].lookup(old))
            with suppress(PoolFullError):
                put(fleet.pools[0], new)

        def come_and_read():
            with fleet.pools[1].lease() as lease:
                require_right(fleet.pools[1], lease, old)

        return Encounter(fleet.stores[1], come_and_read, reuse, come_and_read)

    assert meet_at_every_step(make) > FEWEST_STEPS


def another_owner_retires_while_one_does():
    """A third host holds a lease on the second's blocks, begun at the epoch that the first has just started."""

    def make(seed):
        fleet = small_fleet(seed, num_hosts=3)
        first, second = chain(1, 3, fleet.geometry), chain(2, 3, fleet.geometry)
        put(fleet.pools[0], first)
        put(fleet.pools[1], second)
        fleet.pools[0].refresh()
        held = {}

        def meeting():
            fleet.pools[1].retire(fleet.pools[1].lookup(second[2:]))
            held["lease"] = fleet.pools[2].lease()
            held["found"] = require_right(fleet.pools[2], held["lease"].__enter__(), first)

        def retire():
            fleet.pools[0].retire(fleet.pools[0].lookup(first))
            with suppress(PoolFullError):
                put(fleet.pools[0], chain(3, 3, fleet.geometry))

        def go_on():
            if held:
                known, blocks = held["found"]
                require_holds(fleet.pools[2], blocks, first[known])
                held["lease"].__exit__(None, None, None)

        return Encounter(fleet.stores[0], retire, meeting, go_on)

    assert meet_at_every_step(make) > FEWEST_STEPS


def hosts_take_turns_for_long():
    """Blocks are reused and the journal comes round, with readers who know the blocks from before."""
    fleet = small_fleet()
    kept = chain(0, 1, fleet.geometry)
    put(fleet.pools[0], kept)
    for request in range(1, 20):
        hashes = chain(request, 2, fleet.geometry)
        blocks = put(fleet.pools[0], hashes)
        if request % 3:
            require_readable(fleet.pools[1], hashes)
        fleet.pools[0].retire(blocks)
        with fleet.pools[1].lease() as lease:
            assert (lease.lookup(hashes) < 0).all()
        if request % 5 == 0:
            require_readable(fleet.pools[1], kept)
    fleet.pools[0].close()
    require_readable(fleet.open(0), kept)


def a_torn_entry_is_met():
    fleet = small_fleet()
    hashes = chain(1, 3, fleet.geometry)
    put(fleet.pools[0], hashes)
    last_entrys_block = fleet.geometry.journal_offset(0) + 3 * 64 + 40
    fleet.memory.write_bytes(last_entrys_block, np.array([0], np.uint8))
    with fleet.pools[1].lease() as lease:
        require_right(fleet.pools[1], lease, hashes)


def a_reader_is_fenced_off_while_it_reads():
    fleet = small_fleet()
    hashes = chain(1, 3, fleet.geometry)
    put(fleet.pools[0], hashes)
    try:
        with fleet.pools[1].lease() as lease:
            blocks = lease.prefix(hashes)
            fleet.pools[0].retire(blocks)
            fleet.pools[0].refresh()
            fleet.watch.sleep(PATIENCE_S)
            put(fleet.pools[0], chain(2, 3, fleet.geometry))
            misread = False
            try:
                require_holds(fleet.pools[1], blocks, hashes)
            except AssertionError:
                misread = True
            assert misread, "the blocks were to be reused"
    except FencedError:
        return
    raise AssertionError("read what is no longer there, and was not told")


def a_reader_is_dead_and_another_reads_the_same():
    fleet = small_fleet(num_hosts=3)
    old, new = chain(1, 3, fleet.geometry), chain(2, 3, fleet.geometry)
    put(fleet.pools[0], old)
    dead, live = fleet.pools[1].lease(), fleet.pools[2].lease()
    dead.__enter__()
    blocks = require_all(fleet.pools[2], live.__enter__(), old)
    fleet.pools[0].retire(blocks)
    fleet.pools[0].refresh()
    fleet.watch.sleep(PATIENCE_S)
    fleet.pools[2].beat()
    with suppress(PoolFullError):
        put(fleet.pools[0], new)
    require_holds(fleet.pools[2], blocks, old)
    live.__exit__(None, None, None)
    put(fleet.pools[0], new)
    require_readable(fleet.pools[2], new)


def an_owner_dies_while_it_retires_and_a_reader_reads_on():
    """The lease outlives the owner, and is of the very epoch that the owner died in; the successor wants all the blocks."""

    def make(seed):
        fleet = small_fleet(seed)
        old, new = chain(1, 3, fleet.geometry), chain(2, 3, fleet.geometry)
        put(fleet.pools[0], old)
        lease = fleet.pools[1].lease()
        blocks = require_all(fleet.pools[1], lease.__enter__(), old)

        def retire():
            fleet.pools[0].retire(blocks)

        def time_passes(seconds):
            fleet.watch.sleep(seconds)
            fleet.pools[1].beat()

        def take_over():
            if seed % 4 > 1:
                fleet.stores[0].write_back_everything()
            fleet.stores[0].lose_cache()
            successor = fleet.open(0, sleep=time_passes)
            left = successor.lookup(old)
            successor.retire(left[left >= 0])
            with suppress(PoolFullError):
                put(successor, new[:1])
            require_holds(fleet.pools[1], blocks, old)
            lease.__exit__(None, None, None)
            put(successor, new[1:])
            require_readable(fleet.pools[1], new[1:])

        return Encounter(fleet.stores[0], retire, die, take_over)

    assert meet_at_every_step(make) > FEWEST_STEPS


def a_creator_dies_and_others_open_what_it_left():
    """All hosts of the pool that it replaces had written both their state lines."""
    geometry = small_geometry(num_hosts=4, num_layers=1)
    old = chain(1, 2, geometry)

    def make(seed):
        memory = memory_for(geometry)
        put(create(memory, geometry), old)
        for host in range(1, geometry.num_hosts):
            Pool.open(memory, host=host).beat()
        old_id = pool_format.read_superblock(memory)[1]
        creator = stepping(memory, seed)

        def open_what_it_left():
            if seed % 4 == 3:
                creator.write_back_everything()
            require_old_pool_or_new_or_none(memory, old_id, old)

        return Encounter(creator, lambda: create(creator, geometry, replace=True), die, open_what_it_left)

    assert meet_at_every_step(make, seeds_per_step=4) > FEWEST_STEPS


def a_block_is_published_to_the_letter_of_the_recipe():
    """The recipe of pool.py. No meeting can miss every fence of it: those of the looks at fence marks stand in for some."""
    fleet = small_fleet()
    fleet.stores[0].trail.clear()
    put(fleet.pools[0], chain(1, 1, fleet.geometry))
    recipe = []
    for part in ("rows", "journal", "state"):
        recipe += [f"write {part}", f"flush {part}", "fence"]
    assert write_steps(fleet.stores[0].trail) == recipe


MEETINGS = [  # the quick ones first: with something broken the first that fails is the last that runs
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

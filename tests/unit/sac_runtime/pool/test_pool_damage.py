"""Lines of a pool that memory does not give back as they were written: a reader finds less, and never other bytes."""

import numpy as np
import pytest

from sac_runtime.errors import FencedError, PoolFormatError
from sac_runtime.pool import lines
from sac_runtime.pool.directory import ABSENT
from sac_runtime.pool.format import read_superblock
from sac_runtime.pool.lines import ENTRY, MARK, STATE
from sac_runtime.rows.layout import LINE_BYTES
from tests.support.pool import PATIENCE_S, Fleet, chain, contents, geometry_of, put, read, require_readable


def flip(memory, offset, bit=0):
    byte = np.empty(1, np.uint8)
    memory.read_bytes(offset, byte)
    memory.write_bytes(offset, byte ^ np.uint8(1 << bit))


def line_of(memory, offset, dtype):
    raw = np.empty(LINE_BYTES, np.uint8)
    memory.read_bytes(offset, raw)
    return raw.view(dtype)


def reseal(fleet, offset, dtype, writer, **changes):
    """Change fields of a line, under a checksum that is right."""
    line = line_of(fleet.memory, offset, dtype)
    for name, value in changes.items():
        line[name] = value
    pool_id = read_superblock(fleet.memory)[1]
    lines.write_lines(fleet.memory, offset, line, lines.salt_of(pool_id, writer, dtype))


def entry_offset(fleet, host, sequence):
    return fleet.geometry.journal_offset(host) + sequence % fleet.geometry.journal_slots * LINE_BYTES


def reused(fleet):
    """Host 0 has published `old` (entries 1, 2), retired it (3, 4), and writes other rows into its blocks. Returns old's hashes."""
    old = chain(1, 2, fleet.geometry)
    owner = fleet.pools[0]
    owner.retire(put(owner, old))
    blocks = owner.allocate(fleet.geometry.blocks_per_host)
    for layer in range(fleet.geometry.num_layers):
        owner.write(blocks, layer, np.full((len(blocks) * fleet.geometry.block_tokens, 656), 0xBB, np.uint8))
    owner._flush(blocks)
    return old


def require_absent_or_right(pool, hashes):
    """Returns which are found."""
    with pool.lease() as lease:
        found = lease.lookup(hashes)
        known = found != ABSENT
        assert (read(pool, found[known]) == contents(hashes[known], pool.geometry)).all()
    return known


@pytest.mark.parametrize("byte", range(0, LINE_BYTES, 3))
def test_a_flipped_tombstone_retires_all_the_same(byte):
    fleet = Fleet()
    old = reused(fleet)
    flip(fleet.memory, entry_offset(fleet, 0, 3) + byte)
    newcomer = fleet.open(1)
    assert not require_absent_or_right(newcomer, old).any()
    assert newcomer.num_torn_entries == 1
    assert newcomer.num_withdrawn == 1


def test_what_is_published_after_a_torn_entry_is_found():
    fleet = Fleet()
    before, after = chain(1, 2, fleet.geometry), chain(2, 2, fleet.geometry)
    put(fleet.pools[0], before)
    put(fleet.pools[0], after)
    flip(fleet.memory, entry_offset(fleet, 0, 2))
    newcomer = fleet.open(1)
    assert require_absent_or_right(newcomer, np.concatenate([before, after])).tolist() == [False, False, True, True]


def test_an_owner_that_lost_an_entry_lets_nobody_read_what_it_reuses():
    """The others had read the entry before it was torn, and hold no lease when its owner comes back."""
    fleet = Fleet()
    hashes = chain(1, 3, fleet.geometry)
    put(fleet.pools[0], hashes)
    require_readable(fleet.pools[1], hashes)
    fleet.pools[0].close()
    flip(fleet.memory, entry_offset(fleet, 0, 2))
    owner = fleet.open(0)
    put(owner, chain(2, 5, fleet.geometry))
    assert require_absent_or_right(fleet.pools[1], hashes).tolist() == [False, False, True]


def test_an_owner_that_lost_an_entry_waits_for_the_lease_under_which_its_block_is_read():
    fleet = Fleet()
    hashes = chain(1, 6, fleet.geometry)
    put(fleet.pools[0], hashes)
    with fleet.pools[1].lease() as lease:
        blocks = lease.prefix(hashes)
        fleet.pools[0].close()
        flip(fleet.memory, entry_offset(fleet, 0, 6))
        assert fleet.open(0).num_free == 0
        assert (read(fleet.pools[1], blocks) == contents(hashes, fleet.geometry)).all()
    assert len(fleet.pools[0].allocate(6)) == 6


IMPOSSIBLE = {
    "a block outside": {"block": 2**32 - 1},
    "another host's block": {"block": 6},
    "no kind": {"kind": 7},
    "too many tokens": {"num_tokens": 3},
    "no tokens": {"num_tokens": 0},
    "a publication to come": {"publication": 2**63},
    "no publication": {"publication": 0},
}


@pytest.mark.parametrize("changes", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_entry_that_says_what_cannot_be_is_passed_over_by_all(changes):
    fleet = Fleet()
    ours, theirs = chain(1, 3, fleet.geometry), chain(2, 2, fleet.geometry)
    put(fleet.pools[0], ours)
    put(fleet.pools[1], theirs)
    reseal(fleet, entry_offset(fleet, 0, 2), ENTRY, 0, **changes)
    for host in (0, 1):
        fleet.pools[host].close()
        pool = fleet.open(host)
        require_readable(pool, theirs)
        assert require_absent_or_right(pool, ours).tolist() == [False, False, True]


@pytest.mark.parametrize("lost", [1, 2], ids=["newer", "both"])
def test_state_lines_that_go_back_in_time_bring_nothing_back(lost):
    """Of whatever state before: blocks that were retired since, and reused, are not found by who comes and who was there."""
    for num_later in range(1, 12):
        fleet = Fleet(geometry_of(num_hosts=3))
        old = chain(1, 2, fleet.geometry)
        blocks = put(fleet.pools[0], old)
        require_readable(fleet.pools[1], old)
        states = [line_of(fleet.memory, fleet.geometry.state_offset(0, turn), np.uint8) for turn in (0, 1)]
        fleet.pools[0].retire(blocks)
        for request in range(2, num_later + 2):
            new = chain(request, 6, fleet.geometry)
            last = put(fleet.pools[0], new)
            fleet.pools[0].retire(last)
        for turn in (0, 1)[:lost]:
            fleet.memory.write_bytes(fleet.geometry.state_offset(0, turn), states[turn])
        fleet.pools[2].close()
        for pool in (fleet.pools[1], fleet.open(2)):
            assert not require_absent_or_right(pool, np.concatenate([old, new])).any()
        if lost == 2:
            with pytest.raises(FencedError):
                fleet.pools[0].beat()


def test_a_state_that_goes_back_in_time_is_counted_by_who_saw_the_later_one():
    fleet = Fleet()
    early = [line_of(fleet.memory, fleet.geometry.state_offset(0, turn), np.uint8) for turn in (0, 1)]
    put(fleet.pools[0], chain(1, 1, fleet.geometry))
    fleet.pools[1].refresh()
    assert fleet.pools[1].num_rolled_back == 0
    for turn in (0, 1):
        fleet.memory.write_bytes(fleet.geometry.state_offset(0, turn), early[turn])
    fleet.pools[1].refresh()
    assert fleet.pools[1].num_rolled_back == 1


def test_a_successor_goes_on_behind_what_its_lost_state_had_announced():
    """Others have followed the journal further than the state now says, and must hear of all that comes."""
    fleet = Fleet()
    early = [line_of(fleet.memory, fleet.geometry.state_offset(0, turn), np.uint8) for turn in (0, 1)]
    old, new = chain(1, 4, fleet.geometry), chain(2, 3, fleet.geometry)
    put(fleet.pools[0], old)
    require_readable(fleet.pools[1], old)
    for turn in (0, 1):
        fleet.memory.write_bytes(fleet.geometry.state_offset(0, turn), early[turn])
    successor = fleet.open(0)
    put(successor, new)
    require_readable(fleet.pools[1], new)
    assert not require_absent_or_right(fleet.pools[1], old).any()


def test_the_epoch_of_a_lease_counts_though_the_state_that_began_it_is_lost():
    fleet = Fleet(geometry_of(num_hosts=3))
    hashes = chain(1, 6, fleet.geometry)
    put(fleet.pools[0], hashes)
    early = [line_of(fleet.memory, fleet.geometry.state_offset(2, turn), np.uint8) for turn in (0, 1)]
    for request in range(5):
        fleet.pools[2].retire(put(fleet.pools[2], chain(request + 2, 1, fleet.geometry)))  # epochs go by
    with fleet.pools[1].lease() as lease:
        blocks = lease.prefix(hashes)
        for turn in (0, 1):
            fleet.memory.write_bytes(fleet.geometry.state_offset(2, turn), early[turn])
        fleet.pools[0].retire(blocks)
        assert fleet.pools[0].num_free == 0
        fleet.pools[0]._room._reclaim(6)
        assert fleet.pools[0].num_free == 0


def fenced_reader(fleet):
    """Host 1 is fenced off by host 0 while it holds a lease on blocks that are reused. Returns the lease's context manager."""
    hashes = chain(1, 6, fleet.geometry)
    blocks = put(fleet.pools[0], hashes)
    manager = fleet.pools[1].lease()
    manager.__enter__().prefix(hashes)
    fleet.pools[0].retire(blocks)
    fleet.pools[0].refresh()
    fleet.watch.sleep(PATIENCE_S)
    put(fleet.pools[0], chain(2, 6, fleet.geometry))
    return manager


@pytest.mark.parametrize("byte", range(0, LINE_BYTES, 3))
def test_a_flipped_fence_mark_fences_off(byte):
    fleet = Fleet()
    manager = fenced_reader(fleet)
    flip(fleet.memory, fleet.geometry.mark_offset(1, 0) + byte, bit=byte % 8)
    with pytest.raises(
        FencedError, match=r"may be fenced off: the mark of host 0 was written since it joined, and is torn"
    ):
        manager.__exit__(None, None, None)


def test_a_host_lives_on_beside_a_torn_mark_that_was_there_when_it_joined():
    fleet = Fleet()
    manager = fenced_reader(fleet)
    flip(fleet.memory, fleet.geometry.mark_offset(1, 0) + 9)
    with pytest.raises(FencedError):
        manager.__exit__(None, None, None)
    put(fleet.open(1), chain(3, 2, fleet.geometry))
    require_readable(fleet.pools[1], chain(3, 2, fleet.geometry))


def test_a_mark_of_an_incarnation_that_cannot_be_is_a_named_error():
    fleet = Fleet()
    fleet.pools[1].close()
    reseal(fleet, fleet.geometry.mark_offset(1, 0), MARK, 0, incarnation=2**64 - 1)
    with pytest.raises(PoolFormatError, match="a fence mark names incarnation=4294967295"):
        fleet.open(1)


@pytest.mark.parametrize("field", ["sequence", "incarnation", "epoch", "reading", "head", "blocks_used"])
def test_a_state_that_says_what_cannot_be_counts_as_torn(field):
    fleet = Fleet()
    hashes = chain(1, 2, fleet.geometry)
    put(fleet.pools[0], hashes)
    turn = int(fleet.pools[0]._hosts.state["sequence"]) % 2
    reseal(fleet, fleet.geometry.state_offset(0, turn), STATE, 0, **{field: 2**63})
    fleet.pools[1].close()
    require_absent_or_right(fleet.open(1), hashes)

"""The index finds what is published, whatever was before; journals are followed through wraps, laps and torn entries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sac_runtime.pool import lines
from sac_runtime.pool.directory import ABSENT, _HashIndex
from sac_runtime.pool.lines import ENTRY, MARK, STATE
from tests.support.pool import Fleet, chain, geometry_of, put, require_readable


def random_lines(dtype, count):
    return np.random.default_rng(0).integers(0, 2**63, (count, 8), dtype=np.uint64).view(dtype)[:, 0]


@pytest.mark.parametrize("dtype", [ENTRY, STATE, MARK])
def test_every_format_fills_one_line(dtype):
    assert dtype.itemsize == 64
    assert dtype.fields["checksum"][1] == 56


def test_a_checksum_notices_any_changed_bit():
    entry = random_lines(ENTRY, 1)
    before = lines.checksum(entry, 1)
    flips = np.repeat(entry, 448)
    words = flips.view(np.uint64).reshape(448, 8)
    bit = np.arange(448)
    words[bit, bit // 64] ^= np.uint64(1) << (bit % 64).astype(np.uint64)
    assert (lines.checksum(flips, 1) != before).all()


def test_a_checksum_notices_half_a_line_of_another():
    old, new = random_lines(ENTRY, 2).view(np.uint64).reshape(2, 8)
    for whole_words in range(1, 8):
        torn = np.concatenate([new[:whole_words], old[whole_words:]])
        assert lines.checksum(torn.view(ENTRY), 1)[0] != torn[7]


def test_a_line_of_another_pool_host_or_format_does_not_pass():
    entry = random_lines(ENTRY, 1)
    salts = [lines.salt_of(pool, host, dtype) for pool in (1, 2) for host in (0, 1) for dtype in (ENTRY, STATE, MARK)]
    assert len({int(lines.checksum(entry, salt)[0]) for salt in salts}) == len(salts)


def test_an_all_zero_line_is_not_whole():
    for dtype in (ENTRY, STATE, MARK):
        assert lines.checksum(np.zeros(1, dtype), lines.salt_of(12345, 0, dtype))[0] != 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5)), max_size=60))
def test_the_index_agrees_with_a_dictionary(events):
    """Blocks 0 to 7 are published under hashes 0 to 4 or retired (5), many times over in a small table; two may share a hash."""
    hashes = np.zeros((8, 2), np.uint64)
    index = _HashIndex(hashes)
    names = np.array([[1, 1], [1, 2], [2, 1], [33, 1], [0, 0]], np.uint64)  # equal low words, equal places, zeros
    held = {}
    for block, name in events:
        if held.pop(block, None) is not None:
            index.remove(np.array([block]))
        if name < 5:
            held[block] = name
            hashes[block] = names[name]
            index.add(np.array([block]))
        for wanted, found in enumerate(index.find(names).tolist()):
            assert (held.get(found) == wanted) if found != ABSENT else (wanted not in held.values())


def test_the_index_takes_a_hundred_thousand_blocks_at_once_and_finds_each():
    hashes = np.random.default_rng(0).integers(0, 2**63, (100_000, 2), dtype=np.uint64)
    index = _HashIndex(hashes)
    index.add(np.arange(100_000))
    assert np.array_equal(index.find(hashes), np.arange(100_000))
    assert (index.find(hashes[:, ::-1]) == ABSENT).all()


def test_a_hash_published_and_retired_again_and_again_stays_as_easy_to_find():
    index = _HashIndex(np.full((8, 2), 5, np.uint64))
    for _ in range(1000):
        index.add(np.arange(8))
        index.remove(np.arange(8))
    assert index._num_used == 8


def test_a_block_outlives_many_turns_of_the_journal(fleet):
    """The ring has 24 slots; each round writes four entries."""
    kept = chain(0, 2, fleet.geometry)
    put(fleet.pools[0], kept)
    for request in range(1, 40):
        fleet.pools[0].retire(put(fleet.pools[0], chain(request, 2, fleet.geometry)))
        if request % 7 == 0:
            require_readable(fleet.pools[1], kept)
    assert fleet.pools[0]._journal.head > 5 * fleet.geometry.journal_slots
    require_readable(fleet.pools[1], kept)
    fleet.pools[0].close()
    require_readable(fleet.open(0), kept)
    assert fleet.pools[0].num_published == fleet.pools[1].num_published == 2


@pytest.mark.parametrize("rounds", range(5, 25))
def test_a_reader_that_was_lapped_reads_the_journal_anew(rounds):
    fleet = Fleet()
    kept = chain(0, 2, fleet.geometry)
    put(fleet.pools[0], kept)
    require_readable(fleet.pools[1], kept)
    gone = [chain(request, 2, fleet.geometry) for request in range(1, rounds)]
    for hashes in gone:
        fleet.pools[0].retire(put(fleet.pools[0], hashes))
    last = chain(1000, 3, fleet.geometry)
    put(fleet.pools[0], last)
    for hashes in (kept, last):
        require_readable(fleet.pools[1], hashes)
    assert (fleet.pools[1].lookup(np.concatenate(gone)) == ABSENT).all()
    assert fleet.pools[1].num_published == 5
    assert fleet.pools[1].num_torn_entries == 0


@pytest.mark.parametrize("word", range(8))
def test_a_torn_entry_is_counted_and_takes_back_what_lies_before_it(fleet, word):
    hashes = chain(1, 3, fleet.geometry)
    put(fleet.pools[0], hashes)
    offset = fleet.geometry.journal_offset(0) + 2 * 64 + 8 * word  # sequence 2, the second entry
    garbage = np.full(8, 0xA5, np.uint8)
    fleet.memory.write_bytes(offset, garbage)
    with fleet.pools[1].lease() as lease:
        assert [found != ABSENT for found in lease.lookup(hashes).tolist()] == [False, False, True]
    assert fleet.pools[1].num_torn_entries == 1


def test_one_commit_of_many_blocks_shows_whole_batches_only():
    geometry = geometry_of(blocks_per_host=20, block_tokens=1, num_layers=1)
    fleet = Fleet(geometry)
    hashes = chain(1, 20, geometry)
    blocks = fleet.pools[0].allocate(20)
    seen = []
    commit = fleet.pools[0]._journal._commit
    fleet.pools[0]._journal._commit = lambda entries, head: (
        commit(entries, head),
        seen.append(fleet.pools[1].lookup(hashes)),
    )
    fleet.pools[0].publish(blocks, hashes)
    counts = [int((found != ABSENT).sum()) for found in seen]
    assert counts == [20]
    assert geometry.batch_entries == 20

"""What one host publishes another finds and reads; what must not be found, written or reused is not."""

import numpy as np
import pytest

from emulation.stores.incoherent import IncoherentStore
from sac_runtime.errors import (
    BlockStateError,
    FencedError,
    GeometryError,
    HostBusyError,
    PoolFormatError,
    PoolFullError,
)
from sac_runtime.pool.arena import BlockState
from sac_runtime.pool.block_hash import chain_hashes
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import KvLayout
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
    require_readable,
)

LAYOUTS = [KvLayout.bf16(), KvLayout.fp8(), KvLayout.fp8(padded=False), KvLayout.fp32()]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.name}-{layout.stride_bytes}")
def test_what_one_host_publishes_another_reads(layout):
    fleet = Fleet(geometry_of(layout, num_layers=3, block_tokens=4))
    hashes = chain(1, 5, fleet.geometry)
    put(fleet.pools[0], hashes)
    require_readable(fleet.pools[1], hashes)


def test_hosts_share_a_prefix_that_they_computed_apart(fleet):
    ours = chain_hashes(np.array([1, 2, 3, 4, 5, 6, 7]), 2)
    theirs = chain_hashes(np.array([1, 2, 3, 4, 9, 9, 9]), 2)
    assert (ours[:2] == theirs[:2]).all()
    blocks = put(fleet.pools[0], ours)
    with fleet.pools[1].lease() as lease:
        assert lease.prefix(theirs).tolist() == blocks[:2].tolist()
        assert lease.lookup(theirs).tolist() == [*blocks[:2].tolist(), -1]


def test_every_row_of_a_pool_is_a_row_of_its_own():
    """A canary in each row: a wrong layer offset, stride or key area would overwrite one."""
    geometry = geometry_of(num_layers=3, block_tokens=4, blocks_per_host=3, index_key_bytes=132)
    pool = create(memory_for(geometry), geometry)
    every_block = np.arange(geometry.num_blocks)
    tokens = [pool.rows(every_block, layer) for layer in range(3)]
    keys = [pool._block_rows.index_key_rows(every_block, layer) for layer in range(3)]
    rows = np.concatenate(tokens + keys)
    assert np.array_equal(np.sort(rows), np.arange(geometry.num_rows))


def test_a_block_is_one_range_and_a_layer_of_it_one_range():
    geometry = geometry_of(num_layers=3, block_tokens=4, index_key_bytes=132)
    pool = create(memory_for(geometry), geometry)
    for layer in range(3):
        rows = pool.rows(np.array([4]), layer)
        assert np.array_equal(rows, rows[0] + np.arange(4))
    assert geometry.block_bytes % 64 == 0


def test_a_row_table_finds_any_token_of_a_sequence(fleet):
    pool = fleet.pools[0]
    blocks = np.array([5, 1, 3])
    table = pool.row_table(blocks)
    tokens = np.array([4, 0, 3, 5])
    for layer in range(2):
        assert table.rows(layer, tokens).tolist() == pool.rows(blocks, layer)[tokens].tolist()


def test_indexer_keys_lie_beside_the_rows():
    fleet = Fleet(geometry_of(num_layers=2, block_tokens=8, index_key_bytes=132))
    hashes = chain(1, 3, fleet.geometry)
    keys = np.random.default_rng(0).integers(0, 256, (2, 24, 132), dtype=np.uint8)
    fleet.pools[0].put(hashes, contents(hashes, fleet.geometry), keys)
    blocks = require_readable(fleet.pools[1], hashes)
    for layer in range(2):
        assert (fleet.pools[1].read_index_keys(blocks, layer) == keys[layer]).all()


def test_a_pool_without_indexer_keys_says_so(fleet):
    with pytest.raises(GeometryError, match="index_key_bytes=0"):
        fleet.pools[0].read_index_keys(np.array([0]), 0)


def test_a_partly_full_block_says_how_many_tokens_are_valid(fleet):
    hashes = chain_hashes(np.array([1, 2, 3]), 2, partial=True)
    fleet.pools[0].put(hashes, contents(hashes, fleet.geometry), num_tokens=np.array([2, 1]))
    blocks = require_readable(fleet.pools[1], hashes)
    assert fleet.pools[1].num_tokens(blocks).tolist() == [2, 1]


def test_layers_may_be_written_one_by_one_and_tokens_one_by_one(fleet):
    pool, hashes = fleet.pools[0], chain(1, 2, fleet.geometry)
    values = contents(hashes, fleet.geometry)
    blocks = pool.allocate(2)
    pool.write(blocks, 0, values[0])
    for token in range(4):
        pool.write(blocks, 1, values[1, token : token + 1], first_token=token)
    pool.publish(blocks, hashes)
    require_readable(fleet.pools[1], hashes)


def test_what_is_not_published_is_not_found(fleet):
    hashes = chain(1, 2, fleet.geometry)
    blocks = fleet.pools[0].allocate(2)
    fleet.pools[0].write(blocks, 0, contents(hashes, fleet.geometry)[0])
    assert fleet.pools[1].lookup(hashes).tolist() == [-1, -1]
    fleet.pools[0].free(blocks)
    assert fleet.pools[0].num_free == 6


def test_published_blocks_refuse_to_be_written_published_or_freed(fleet):
    pool, hashes = fleet.pools[0], chain(1, 2, fleet.geometry)
    blocks = put(pool, hashes)
    with pytest.raises(BlockStateError, match="block 0 is published; only held blocks can be written"):
        pool.write(blocks, 0, contents(hashes, fleet.geometry)[0])
    with pytest.raises(BlockStateError, match="can be published"):
        pool.publish(blocks, hashes)
    with pytest.raises(BlockStateError, match="can be freed"):
        pool.free(blocks)


def test_a_host_refuses_to_write_into_another_hosts_arena(fleet):
    blocks = fleet.pools[0].allocate(1)
    with pytest.raises(BlockStateError, match="not all of its arena"):
        fleet.pools[1].write(blocks, 0, np.zeros((2, 656), np.uint8))


def test_bad_shapes_are_refused_by_name(fleet):
    pool = fleet.pools[0]
    blocks = pool.allocate(2)
    with pytest.raises(GeometryError, match="tokens 3 to 4 lie outside"):
        pool.write(blocks, 0, np.zeros((2, 656), np.uint8), first_token=3)
    with pytest.raises(GeometryError, match=r"hashes is uint64 of shape \(1, 2\)"):
        pool.publish(blocks, chain(1, 1, fleet.geometry))
    with pytest.raises(GeometryError, match="num_tokens"):
        pool.publish(blocks, chain(1, 2, fleet.geometry), num_tokens=np.array([1, 3]))
    with pytest.raises(BlockStateError, match="twice"):
        pool.publish(blocks[[0, 0]], chain(1, 2, fleet.geometry))


def test_a_retired_block_is_not_found_and_its_twin_still_is(fleet):
    hashes = chain(1, 2, fleet.geometry)
    first, second = put(fleet.pools[0], hashes), put(fleet.pools[1], hashes)
    fleet.pools[0].retire(first)
    with fleet.pools[1].lease() as lease:
        assert lease.lookup(hashes).tolist() == second.tolist()
    require_readable(fleet.pools[0], hashes)


def test_a_retired_block_is_reused_at_once_where_nobody_reads(fleet):
    pool = fleet.pools[0]
    for request in range(10):
        blocks = put(pool, chain(request, 4, fleet.geometry))
        require_readable(fleet.pools[1], chain(request, 4, fleet.geometry))
        pool.retire(blocks)
    assert fleet.pools[1].lookup(chain(3, 4, fleet.geometry)).tolist() == [-1] * 4


@pytest.mark.parametrize("reader", [0, 1], ids=["the owner itself", "another host"])
def test_a_retired_block_waits_for_the_lease_under_which_it_may_be_read(fleet, reader):
    pool, hashes = fleet.pools[0], chain(1, 6, fleet.geometry)
    put(pool, hashes)
    with fleet.pools[reader].lease() as lease:
        blocks = lease.prefix(hashes)
        pool.retire(blocks)
        with pytest.raises(PoolFullError, match=rf"6 retired and perhaps read still, by hosts \[{reader}\]"):
            pool.allocate(1)
        assert (read(fleet.pools[reader], blocks) == contents(hashes, fleet.geometry)).all()
    assert len(pool.allocate(6)) == 6


def test_a_lease_begun_after_the_retirement_holds_nothing_up(fleet):
    pool, hashes = fleet.pools[0], chain(1, 6, fleet.geometry)
    pool.retire(put(pool, hashes))
    with fleet.pools[1].lease() as lease:
        assert lease.lookup(hashes).tolist() == [-1] * 6
        assert len(pool.allocate(6)) == 6


def test_the_older_of_two_overlapping_leases_counts(fleet):
    pool, hashes = fleet.pools[0], chain(1, 6, fleet.geometry)
    blocks = put(pool, hashes)
    older = fleet.pools[1].lease()
    older.__enter__().prefix(hashes)
    pool.retire(blocks)
    with fleet.pools[1].lease():
        with pytest.raises(PoolFullError):
            pool.allocate(1)
        older.__exit__(None, None, None)
        assert len(pool.allocate(1)) == 1


def test_two_owners_that_retire_at_once_both_wait_for_a_reader_of_the_epoch_between():
    """The second owner's epoch was announced by the first already: a reader at it need not know the second's tombstone."""
    fleet = Fleet(geometry_of(num_hosts=3))
    hashes = chain(2, 6, fleet.geometry)
    put(fleet.pools[0], chain(1, 6, fleet.geometry))
    theirs = put(fleet.pools[1], hashes)
    fleet.pools[1].refresh()  # the second owner knows the epoch before
    fleet.pools[0].retire_coldest(6)  # a new epoch
    with fleet.pools[2].lease() as lease:  # at the new epoch, before the second owner's tombstone
        assert lease.prefix(hashes).tolist() == theirs.tolist()
        fleet.pools[1].retire(theirs)
        with pytest.raises(PoolFullError):
            fleet.pools[1].allocate(1)


def test_a_full_pool_never_takes_what_is_published(fleet):
    pool, hashes = fleet.pools[0], chain(1, 4, fleet.geometry)
    put(pool, hashes)
    pool.allocate(2)
    with pytest.raises(
        PoolFullError, match=r"1 blocks wanted, 0 free of 6; 4 published \(retire some\), 2 being written"
    ):
        pool.allocate(1)
    require_readable(fleet.pools[1], hashes)


def test_the_coldest_blocks_go_first_and_the_end_of_a_chain_before_its_beginning(fleet):
    pool = fleet.pools[0]
    old, new = chain(1, 3, fleet.geometry), chain(2, 3, fleet.geometry)
    old_blocks, new_blocks = put(pool, old), put(pool, new)
    require_readable(pool, old)  # used again
    assert pool.retire_coldest(2).tolist() == new_blocks[:0:-1].tolist()
    with pool.lease() as lease:
        assert lease.prefix(new).tolist() == new_blocks[:1].tolist()
        assert lease.prefix(old).tolist() == old_blocks.tolist()
    assert pool.count(BlockState.PUBLISHED) == 4


def test_a_failed_put_gives_its_blocks_back(fleet):
    hashes = chain(1, 2, fleet.geometry)
    for values, num_tokens in [(contents(hashes, fleet.geometry)[:1], None), (None, np.array([1, 99]))]:
        values = contents(hashes, fleet.geometry) if values is None else values
        with pytest.raises(GeometryError):
            fleet.pools[0].put(hashes, values, num_tokens=num_tokens)
        assert fleet.pools[0].num_free == 6


def test_a_lookup_after_the_lease_is_refused(fleet):
    with fleet.pools[1].lease() as lease:
        pass
    with pytest.raises(BlockStateError, match="has ended"):
        lease.lookup(chain(1, 1, fleet.geometry))


def test_a_block_published_under_a_running_lease_can_be_read_in_it(fleet):
    hashes = chain(1, 2, fleet.geometry)
    with fleet.pools[1].lease() as lease:
        assert len(lease.prefix(hashes)) == 0
        blocks = put(fleet.pools[0], hashes)
        assert lease.prefix(hashes).tolist() == blocks.tolist()
        fleet.pools[0].retire(blocks)
        fleet.pools[0].allocate(4)
        with pytest.raises(PoolFullError):
            fleet.pools[0].allocate(1)
        assert (read(fleet.pools[1], blocks) == contents(hashes, fleet.geometry)).all()


def test_lines_are_invalidated_once_a_publication_and_never_for_own_blocks(fleet):
    hashes = chain(1, 2, fleet.geometry)
    put(fleet.pools[0], hashes)
    counted = []

    def count(offset, size_bytes, inner=IncoherentStore.invalidate):
        counted.append(size_bytes * (offset >= fleet.geometry.metadata_bytes))
        inner(fleet.stores[1], offset, size_bytes)

    fleet.stores[1].invalidate = count
    fleet.stores[0].invalidate = lambda offset, size_bytes: counted.append(
        size_bytes * (offset >= fleet.geometry.metadata_bytes)
    )
    require_readable(fleet.pools[1], hashes)
    assert sum(counted) == 2 * fleet.geometry.block_bytes
    require_readable(fleet.pools[1], hashes)
    require_readable(fleet.pools[0], hashes)
    assert sum(counted) == 2 * fleet.geometry.block_bytes


def test_a_closed_host_opens_again_at_once_and_finds_what_it_published(fleet):
    hashes = chain(1, 2, fleet.geometry)
    put(fleet.pools[0], hashes)
    fleet.pools[0].close()
    fleet.pools[0].close()
    pool = fleet.open(0)
    assert fleet.watch.now_ns == 0
    assert (pool.num_published, pool.num_free) == (2, 4)
    require_readable(pool, hashes)


def test_after_reopening_retired_blocks_wait_for_the_readers_of_before(fleet):
    hashes = chain(1, 6, fleet.geometry)
    blocks = put(fleet.pools[0], hashes)
    with fleet.pools[1].lease() as lease:
        lease.prefix(hashes)
        fleet.pools[0].retire(blocks[3:])
        fleet.pools[0].close()
        pool = fleet.open(0)
        assert pool.num_free == 0
        with pytest.raises(PoolFullError):
            pool.allocate(1)
        assert (read(fleet.pools[1], blocks) == contents(hashes, fleet.geometry)).all()
    assert len(pool.allocate(3)) == 3


def test_a_host_number_in_use_is_refused_while_its_process_lives(fleet):
    def live(seconds):
        fleet.watch.sleep(seconds)
        fleet.pools[1].beat()

    with pytest.raises(HostBusyError, match="host 1: incarnation=1 is in use"):
        Pool.open(IncoherentStore(fleet.memory), host=1, clock_ns=fleet.watch, sleep=live, patience_s=PATIENCE_S)


def test_a_silent_host_is_replaced_after_the_patience_and_its_old_process_notices(fleet):
    hashes, old = chain(1, 2, fleet.geometry), fleet.pools[0]
    put(old, hashes)
    held = old.allocate(1)
    new = fleet.open(0, IncoherentStore(fleet.memory))
    assert PATIENCE_S <= fleet.watch.now_ns / 1e9 < 1.1 * PATIENCE_S
    for act in (
        lambda: old.allocate(1),
        lambda: old.write(held, 0, np.zeros((2, 656), np.uint8)),
        lambda: old.publish(held, chain(2, 1, fleet.geometry)),
        lambda: old.retire_coldest(1),
        lambda: old.lease().__enter__(),
        old.beat,
    ):
        with pytest.raises(FencedError, match="replaced by another process, now at incarnation=2"):
            act()
    old.close()
    require_readable(new, hashes)
    new.beat()


def test_a_dead_reader_is_fenced_off_when_its_lease_is_in_the_way(fleet):
    pool, hashes = fleet.pools[0], chain(1, 6, fleet.geometry)
    put(pool, hashes)
    lease = fleet.pools[1].lease()
    blocks = lease.__enter__().prefix(hashes)
    pool.retire(blocks)
    fleet.watch.sleep(PATIENCE_S - 1e-9)
    with pytest.raises(PoolFullError):
        pool.allocate(1)
    fleet.watch.sleep(1e-9)
    assert len(pool.allocate(6)) == 6
    with pytest.raises(FencedError, match="host 1: incarnation=1 was fenced off by host 0"):
        lease.__exit__(None, None, None)
    fleet.pools[1].close()
    put(fleet.open(1), hashes)


def test_a_reader_that_beats_is_never_fenced_off(fleet):
    pool, hashes = fleet.pools[0], chain(1, 6, fleet.geometry)
    put(pool, hashes)
    with fleet.pools[1].lease() as lease:
        pool.retire(lease.prefix(hashes))
        for _ in range(5):
            fleet.watch.sleep(0.9 * PATIENCE_S)
            fleet.pools[1].beat()
            with pytest.raises(PoolFullError):
                pool.allocate(1)


def test_what_a_fenced_host_published_stays_readable(fleet):
    hashes = chain(1, 3, fleet.geometry)
    put(fleet.pools[0], hashes)
    fleet.pools[1].refresh()  # silence counts from the last change that was seen
    fleet.watch.sleep(PATIENCE_S)
    assert fleet.pools[1].fence_dead_hosts() == [0]
    assert fleet.pools[1].fence_dead_hosts() == []
    require_readable(fleet.pools[1], hashes)
    with pytest.raises(FencedError):
        fleet.pools[0].fence_dead_hosts()


def test_a_fenced_host_number_opens_at_once(fleet):
    fleet.watch.sleep(PATIENCE_S)
    fleet.pools[1].fence_dead_hosts()
    opened_at = fleet.watch.now_ns
    fleet.open(0, IncoherentStore(fleet.memory)).beat()
    assert fleet.watch.now_ns == opened_at


def test_beating_keeps_a_busy_host_alive_and_ends_quietly_when_fenced(fleet):
    sequence = fleet.pools[1]._hosts.state["sequence"]
    with fleet.pools[1].beating(interval_s=0.001):
        while fleet.pools[1]._hosts.state["sequence"] < sequence + 3:
            pass
        fleet.pools[0]._hosts.fence_off(1, int(fleet.pools[1]._hosts.state["incarnation"]))
    with pytest.raises(FencedError):
        fleet.pools[1].beat()


@pytest.mark.parametrize("num_hosts", [1, 3, 64])
def test_any_number_of_hosts_up_to_64_shares_a_pool(num_hosts):
    fleet = Fleet(geometry_of(num_hosts=num_hosts, blocks_per_host=2), wrap=lambda memory: memory)
    chains = [chain(host, 2, fleet.geometry) for host in range(num_hosts)]
    for host, hashes in enumerate(chains):
        put(fleet.pools[host], hashes)
    for hashes in chains:
        require_readable(fleet.pools[num_hosts - 1], hashes)


def test_a_closed_pool_refuses_to_be_used(fleet):
    fleet.pools[0].close()
    for act in (lambda: fleet.pools[0].allocate(1), lambda: fleet.pools[0].lease().__enter__(), fleet.pools[0].beat):
        with pytest.raises(FencedError, match="was closed"):
            act()


def test_a_chain_longer_than_a_batch_goes_from_its_end_too(monkeypatch):
    monkeypatch.setattr("sac_runtime.pool.format.MAX_BATCH", 2)
    fleet = Fleet()
    blocks = put(fleet.pools[0], chain(1, 6, fleet.geometry))
    assert fleet.pools[0]._journal._batch == 2
    assert fleet.pools[0].retire_coldest(3).tolist() == blocks[:2:-1].tolist()


def test_a_lease_shows_though_a_look_catches_its_line_half_written(fleet):
    """One state line is read before its turn, the other while it is written: what remains of the two is older than the look."""
    reader, owner = fleet.pools[1], fleet.pools[0]
    reader.beat()
    before = reader._hosts.state.copy()
    with reader.lease():
        newest = int(reader._hosts.state["sequence"]) % 2
        read_bytes, looks = fleet.stores[0].read_bytes, []

        def read_torn_once(offset, out):
            read_bytes(offset, out)
            if offset == fleet.geometry.state_offset(0, 0) and out.size > 64 and not looks:
                looks.append(offset)
                line = fleet.geometry.state_offset(1, 0) - offset
                out[line + 64 * newest : line + 64 * newest + 8] ^= 0xFF
                out[line + 64 * (1 - newest) :][:64] = np.frombuffer(before.tobytes(), np.uint8)

        fleet.stores[0].read_bytes = read_torn_once
        assert owner._hosts.look().states["reading"][1] == reader._hosts.state["reading"]
        assert looks


def test_state_lines_that_somebody_else_overwrote_are_reported(fleet):
    fleet.memory.write_bytes(fleet.geometry.state_offset(1, 0), np.full(128, 0xA5, np.uint8))
    with pytest.raises(PoolFormatError, match="pool host 1: both its state lines are torn"):
        fleet.pools[0].refresh()

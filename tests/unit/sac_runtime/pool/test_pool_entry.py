"""Ways into a pool that is not there yet, that is full, or that one may only read."""

import threading

import numpy as np
import pytest

from sac_runtime.errors import BlockStateError, GeometryError, PoolFormatError, PoolFullError
from sac_runtime.pool.pool import Pool
from sac_runtime.pool.reader import PoolReader
from sac_runtime.pool.sequence import PoolSequence
from tests.support.pool import chain, create, geometry_of, memory_for


@pytest.fixture
def geometry():
    return geometry_of(num_layers=2, block_tokens=2, blocks_per_host=6)


@pytest.fixture
def store(geometry):
    with memory_for(geometry) as store:
        yield store


def rows_of(geometry, hashes, number):
    shape = (geometry.num_layers, len(hashes) * geometry.block_tokens, geometry.layout.row_bytes)
    return np.full(shape, number, np.uint8)


def put(pool, request, num_blocks):
    hashes = chain(request, num_blocks, pool.geometry)
    return hashes, pool.put(hashes, rows_of(pool.geometry, hashes, request))


def test_a_reader_that_comes_first_is_told_what_to_do(store):
    for way in (lambda: Pool.open(store, host=1), lambda: PoolReader.open(store)):
        with pytest.raises(PoolFormatError, match=r"none is created yet .*wait_s.*or it is another memory"):
            way()


def test_a_reader_that_comes_first_waits_for_the_creator(store, geometry):
    creator = threading.Timer(0.1, lambda: create(store, geometry))
    creator.start()
    with Pool.open(store, host=1, wait_s=30) as pool:
        assert pool.geometry == geometry
    creator.join()
    assert PoolReader.open(store, wait_s=30).geometry == geometry


def test_a_wait_ends_at_its_time(store):
    waited = []
    with pytest.raises(PoolFormatError, match="holds no pool"):
        Pool.open(store, host=1, wait_s=0.02, sleep=waited.append)
    assert waited and max(waited) <= 0.02
    for wait_s in (-1, float("nan"), float("inf")):
        with pytest.raises(GeometryError, match=r"wait_s=.* must be a number of seconds"):
            Pool.open(store, host=1, wait_s=wait_s)


def test_a_reader_without_a_number_reads_what_was_published_and_writes_nothing(store, geometry):
    with create(store, geometry) as pool:
        _, blocks = put(pool, 7, 3)
        before = np.empty(geometry.metadata_bytes, np.uint8)
        store.read_bytes(0, before)
        with PoolReader.open(store, expected=geometry) as reader, reader.reading(chain(7, 5, geometry)) as found:
            assert found.tolist() == blocks.tolist()
            out = np.empty((6, geometry.layout.row_bytes), np.uint8)
            store.read_rows(reader.row_table(found).rows(1, np.arange(6)), out)
            assert reader.num_tokens(found).tolist() == [2, 2, 2]
        assert (out == 7).all()
        after = np.empty_like(before)
        store.read_bytes(0, after)
        assert (before == after).all()
        assert reader.lookup(chain(8, 1, geometry)).tolist() == [-1]


def test_a_reader_without_a_number_is_told_that_a_block_was_reused_while_it_read(store, geometry):
    with create(store, geometry) as pool:
        hashes, blocks = put(pool, 7, 3)
        reader = PoolReader.open(store)
        with pytest.raises(BlockStateError, match="was retired while it was read"), reader.reading(hashes):
            pool.retire(blocks)  # nobody holds a lease: they are free at once
            put(pool, 8, 6)
        with reader.reading(hashes) as found:
            assert found.size == 0


def test_retiring_another_block_does_not_trouble_a_reader(store, geometry):
    with create(store, geometry) as pool:
        hashes, _ = put(pool, 7, 2)
        _, others = put(pool, 8, 2)
        with PoolReader.open(store).reading(hashes) as found:
            pool.retire(others)
        assert found.size == 2


def test_a_full_pool_refuses_unless_it_may_evict(store, geometry):
    with create(store, geometry) as pool:
        put(pool, 1, 6)
        with pytest.raises(PoolFullError, match="or open the pool with evict=True"):
            pool.allocate(1)
    with Pool.open(store, host=0, evict=True) as pool:
        pool.allocate(1)
        assert pool.num_published == 5


def test_what_was_not_used_for_longest_goes_first_and_of_a_chain_its_last(store, geometry):
    with create(store, geometry, evict=True) as pool:
        chains = [put(pool, request, 2)[0] for request in (1, 2, 3)]
        with pool.lease() as lease:
            lease.prefix(chains[0])  # the oldest becomes the warmest
        put(pool, 4, 1)
        assert (pool.lookup(chains[1]) >= 0).tolist() == [True, False]
        put(pool, 5, 3)
        assert [(pool.lookup(hashes) >= 0).sum() for hashes in chains] == [2, 0, 0]


def test_what_a_lease_of_this_host_has_found_or_published_is_never_evicted(store, geometry):
    with create(store, geometry, evict=True) as pool:
        found, _ = put(pool, 1, 2)
        put(pool, 2, 1)
        with pool.lease() as lease:
            blocks = lease.prefix(found)
            mine, own = put(pool, 3, 2)
            pool.allocate(2)  # one is free, and one of request 2 goes
            assert (pool.lookup(np.concatenate([found, mine])) >= 0).all()
            with pytest.raises(PoolFullError):
                pool.allocate(1)
            assert pool.lookup(found).tolist() == blocks.tolist()
            assert pool.lookup(mine).tolist() == own.tolist()


def test_nothing_is_evicted_in_vain(store, geometry):
    with create(store, geometry, evict=True) as pool:
        hashes, _ = put(pool, 1, 4)
        with pytest.raises(PoolFullError):
            pool.allocate(7)
        assert (pool.lookup(hashes) >= 0).all()


def test_what_another_host_may_read_is_not_reused_and_not_evicted_twice(store, geometry):
    with create(store, geometry, evict=True) as pool, Pool.open(store, host=1) as other:
        put(pool, 1, 6)
        with other.lease() as lease:
            lease.prefix(chain(1, 6, geometry))
            for _ in range(3):
                with pytest.raises(PoolFullError, match=r"by hosts \[1\] \(wait"):
                    pool.allocate(2)
            assert pool.num_published == 4
        assert len(pool.allocate(2)) == 2


def test_prompts_go_on_when_the_pool_is_full_of_old_ones(store, geometry):
    with create(store, geometry, evict=True) as pool:
        for request in range(10):
            with pool.lease() as lease:
                sequence = PoolSequence(pool, lease)
                tokens = np.arange(4) + 1000 * request
                sequence.adopt_prefix(tokens)
                sequence.extend(tokens[len(sequence) :])
                for layer in range(2):
                    sequence.write(layer, 0, np.full((4, geometry.layout.row_bytes), request, np.uint8))
                sequence.publish_full(lambda *_: None)
                assert (sequence.read(1, 4) == request).all()
        assert pool.num_published == 6

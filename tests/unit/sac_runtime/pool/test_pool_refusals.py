"""What a pool refuses of its callers, so that no slip of theirs writes where others read."""

import numpy as np
import pytest

from sac_runtime.errors import FencedError, GeometryError, PoolFormatError, RowRangeError
from sac_runtime.pool.arena import BlockState
from sac_runtime.pool.block_hash import chain_hashes
from sac_runtime.pool.directory import Directory
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.hosts import Hosts
from sac_runtime.pool.lease import Leases
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import KvLayout
from tests.support.pool import Fleet, chain, contents, create, geometry_of, memory_for, put, require_readable


@pytest.mark.parametrize("count", [-1, 1.5])
def test_a_count_that_is_no_number_of_blocks_is_refused(fleet, count):
    blocks = put(fleet.pools[0], chain(1, 6, fleet.geometry))
    for act in (fleet.pools[0].allocate, fleet.pools[0].retire_coldest):
        with pytest.raises(GeometryError, match=f"count={count} must be a whole number, at least 0"):
            act(count)
    assert fleet.pools[0].num_free == 0
    assert fleet.pools[0].count(BlockState.PUBLISHED) == len(blocks)


@pytest.mark.parametrize("layer", [-1, 2, 99])
def test_a_layer_outside_is_refused_and_nobodys_rows_are_written(layer):
    fleet = Fleet(geometry_of(index_key_bytes=132))
    ours, theirs = chain(1, 5, fleet.geometry), chain(2, 6, fleet.geometry)
    for pool, hashes in ((fleet.pools[0], ours), (fleet.pools[1], theirs)):
        keys = np.zeros((2, len(hashes) * 2, 132), np.uint8)
        pool.put(hashes, contents(hashes, fleet.geometry), keys)
    pool, last = fleet.pools[0], fleet.pools[0].allocate(1)
    for act in (
        lambda: pool.write(last, layer, np.full((2, 656), 7, np.uint8)),
        lambda: pool.rows(last, layer),
        lambda: pool.row_table(last).rows(layer, np.array([0])),
        lambda: pool.write_index_keys(last, layer, np.zeros((2, 132), np.uint8)),
        lambda: pool.read_index_keys(last, layer),
    ):
        with pytest.raises(RowRangeError, match=rf"layer={layer} lies outside \[0, 2\)"):
            act()
    for hashes in (ours, theirs):
        require_readable(fleet.pools[1], hashes)


@pytest.mark.parametrize("token", [-1, 4])
def test_a_token_outside_its_blocks_is_refused(fleet, token):
    table = fleet.pools[0].row_table(fleet.pools[0].allocate(2))
    with pytest.raises(RowRangeError, match=r"lie outside \[0, 4\)"):
        table.rows(0, np.array([1, token]))
    with pytest.raises(RowRangeError, match=rf"token {token} lies outside \[0, 4\)"):
        table.layer(0).row(token)


def test_a_put_of_other_shapes_is_refused_before_anything_is_held():
    fleet = Fleet(geometry_of(index_key_bytes=132))
    pool, hashes = fleet.pools[0], chain(1, 2, fleet.geometry)
    values, keys = contents(hashes, fleet.geometry), np.zeros((2, 4, 132), np.uint8)
    for given, message in [
        ((values[:, :3], keys), r"values is uint8 of shape \(2, 3, 656\); it must be uint8 of shape \(2, 4, 656\)"),
        ((values.astype(np.int16), keys), "values is int16"),
        ((values, None), "index_keys is missing"),
        ((values, keys[:, :, :1]), r"index_keys is uint8 of shape \(2, 4, 1\)"),
        ((values, keys.astype(np.float32)), "index_keys is float32"),
    ]:
        with pytest.raises(GeometryError, match=message):
            pool.put(hashes, *given)
    for num_tokens in (np.array([1, 99]), np.array([1, 2, 2]), np.array([1.9, 1.2])):
        with pytest.raises(GeometryError, match="num_tokens"):
            pool.put(hashes, values, keys, num_tokens)
    assert pool.num_free == 6
    pool.put(hashes, values, keys)
    assert pool.read_index_keys(np.zeros(0, np.int64), 0).shape == (0, 132)


@pytest.mark.parametrize("wrong", [np.zeros(2, np.uint64), np.zeros((1, 3), np.uint64), np.zeros((1, 2))])
def test_hashes_of_another_shape_or_type_are_refused(fleet, wrong):
    with pytest.raises(GeometryError, match=r"it must be uint64 of shape \(n, 2\)"):
        fleet.pools[0].lookup(wrong)


@pytest.mark.parametrize("blocks", [np.array([0.9]), np.array([True])])
def test_block_numbers_are_integers(fleet, blocks):
    fleet.pools[0].allocate(2)
    with pytest.raises(GeometryError, match="it must be integers of one dimension"):
        fleet.pools[0].free(blocks)


def test_the_number_of_tokens_of_an_absent_block_is_refused(fleet):
    with pytest.raises(GeometryError, match=r"do not all lie in \[0, 12\)"):
        fleet.pools[0].num_tokens(np.array([-1]))


def test_names_are_made_of_integers_and_a_short_root():
    with pytest.raises(GeometryError, match="it must be integers of one dimension"):
        chain_hashes(np.array([1.5, 2.5]), 1)
    with pytest.raises(GeometryError, match="root of 65 bytes exceeds 64"):
        chain_hashes(np.array([1]), 1, root=bytes(65))


@pytest.mark.parametrize("patience_s", [float("nan"), float("inf"), -1.0])
def test_a_patience_that_never_ends_or_is_none_is_refused(fleet, patience_s):
    fleet.pools[1].close()
    with pytest.raises(GeometryError, match="patience_s"):
        fleet.open(1, patience_s=patience_s)


@pytest.mark.parametrize(("field", "value"), [("num_hosts", 2.5), ("blocks_per_host", 2**30), ("block_tokens", 0)])
def test_a_geometry_that_cannot_be_numbered_is_refused(field, value):
    shape = {"num_hosts": 2, "num_layers": 1, "block_tokens": 64, "blocks_per_host": 1, field: value}
    with pytest.raises(GeometryError, match=r"must be a whole number|exceed 2147483647 blocks"):
        PoolGeometry(KvLayout.bf16(), **shape)


def test_rows_that_are_split_otherwise_make_a_foreign_pool():
    geometry = geometry_of(KvLayout.bf16(512, 64))
    memory = memory_for(geometry)
    create(memory, geometry)
    memory.layout = KvLayout.bf16(64, 512)  # as many bytes
    with pytest.raises(PoolFormatError, match="the pool has latent=512, rope=64; this store has latent=64, rope=512"):
        Pool.open(memory, host=1)


def test_a_creator_that_the_pool_would_not_have_destroys_nothing(fleet):
    hashes = chain(1, 2, fleet.geometry)
    put(fleet.pools[0], hashes)
    with pytest.raises(GeometryError, match=r"host=7 lies outside \[0, 2\)"):
        create(fleet.stores[0], fleet.geometry, host=7, replace=True)
    require_readable(fleet.pools[1], hashes)


def test_a_pool_of_another_version_is_not_taken_for_free_memory(fleet):
    fleet.memory.write_bytes(8, np.frombuffer((99).to_bytes(8, "little"), np.uint8))
    with pytest.raises(PoolFormatError, match="holds a pool already"):
        create(fleet.memory, fleet.geometry)
    create(fleet.memory, fleet.geometry, replace=True)


def interrupted_after(monkeypatch, owner, name):
    """The next call of `name` does its work and is then cut off; later ones are as ever."""
    right = getattr(owner, name)

    def cut_off(self, *arguments, **options):
        monkeypatch.setattr(owner, name, right)
        right(self, *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, cut_off)


def test_a_publication_that_is_cut_off_leaves_its_blocks_to_nobody(fleet, monkeypatch):
    """The state line is out and the process does not know: whatever it does next, its readers must not see other bytes."""
    hashes = chain(1, 2, fleet.geometry)
    interrupted_after(monkeypatch, Hosts, "write")
    with pytest.raises(KeyboardInterrupt):
        put(fleet.pools[0], hashes)
    assert fleet.pools[0].count(BlockState.HELD) == 2
    held = np.array([0, 1])
    for act in (
        lambda: fleet.pools[0].allocate(1),
        lambda: fleet.pools[0].write(held, 0, np.zeros((2, 656), np.uint8)),
        lambda: fleet.pools[0].publish(held, hashes),
        lambda: put(fleet.pools[0], chain(2, 1, fleet.geometry)),
    ):
        with pytest.raises(FencedError, match="an append was cut off"):
            act()
    require_readable(fleet.pools[1], hashes)
    fleet.pools[0].close()
    require_readable(fleet.open(0), hashes)


def test_a_lease_that_is_cut_off_while_it_begins_holds_nothing_back(fleet, monkeypatch):
    blocks = put(fleet.pools[0], chain(1, 6, fleet.geometry))
    for owner, name in ((Leases, "_announce"), (Directory, "catch_up")):
        interrupted_after(monkeypatch, owner, name)
        with pytest.raises(KeyboardInterrupt), fleet.pools[1].lease():
            raise AssertionError("unreachable")
    fleet.pools[0].retire(blocks)
    assert len(fleet.pools[0].allocate(6)) == 6

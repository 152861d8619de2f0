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


@pytest.mark.parametrize("count", [-1, 1.5])
def test_a_count_that_is_no_number_of_blocks_is_refused(kit, bed, count):
    blocks = kit.put(bed.pools[0], kit.chain(1, 6, bed.geometry))
    for act in (bed.pools[0].allocate, bed.pools[0].retire_coldest):
        with pytest.raises(GeometryError, match=f"count={count} must be a number of blocks"):
            act(count)
    assert bed.pools[0].num_free == 0
    assert bed.pools[0].count(BlockState.PUBLISHED) == len(blocks)


@pytest.mark.parametrize("layer", [-1, 2, 99])
def test_a_layer_outside_is_refused_and_nobodys_rows_are_written(kit, layer):
    bed = kit.Bed(kit.geometry_of(index_key_bytes=132))
    ours, theirs = kit.chain(1, 5, bed.geometry), kit.chain(2, 6, bed.geometry)
    for pool, hashes in ((bed.pools[0], ours), (bed.pools[1], theirs)):
        keys = np.zeros((2, len(hashes) * 2, 132), np.uint8)
        pool.put(hashes, kit.contents(hashes, bed.geometry), keys)
    pool, last = bed.pools[0], bed.pools[0].allocate(1)
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
        kit.require_readable(bed.pools[1], hashes)


@pytest.mark.parametrize("token", [-1, 4])
def test_a_token_outside_its_blocks_is_refused(bed, token):
    table = bed.pools[0].row_table(bed.pools[0].allocate(2))
    with pytest.raises(RowRangeError, match=r"lie outside \[0, 4\)"):
        table.rows(0, np.array([1, token]))
    with pytest.raises(RowRangeError, match=rf"token {token} lies outside \[0, 4\)"):
        table.layer(0).row(token)


def test_a_put_of_other_shapes_is_refused_before_anything_is_held(kit):
    bed = kit.Bed(kit.geometry_of(index_key_bytes=132))
    pool, hashes = bed.pools[0], kit.chain(1, 2, bed.geometry)
    values, keys = kit.contents(hashes, bed.geometry), np.zeros((2, 4, 132), np.uint8)
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
def test_hashes_of_another_shape_or_type_are_refused(bed, wrong):
    with pytest.raises(GeometryError, match=r"it must be uint64 of shape \(n, 2\)"):
        bed.pools[0].lookup(wrong)


@pytest.mark.parametrize("blocks", [np.array([0.9]), np.array([True])])
def test_block_numbers_are_integers(bed, blocks):
    bed.pools[0].allocate(2)
    with pytest.raises(GeometryError, match="block numbers are integers"):
        bed.pools[0].free(blocks)


def test_the_number_of_tokens_of_an_absent_block_is_refused(bed):
    with pytest.raises(GeometryError, match=r"do not all lie in \[0, 12\)"):
        bed.pools[0].num_tokens(np.array([-1]))


def test_names_are_made_of_integers_and_a_short_root():
    with pytest.raises(GeometryError, match="token numbers are integers"):
        chain_hashes(np.array([1.5, 2.5]), 1)
    with pytest.raises(GeometryError, match="root of 65 bytes exceeds 64"):
        chain_hashes(np.array([1]), 1, root=bytes(65))


@pytest.mark.parametrize("patience_s", [float("nan"), float("inf"), -1.0])
def test_a_patience_that_never_ends_or_is_none_is_refused(kit, bed, patience_s):
    bed.pools[1].close()
    with pytest.raises(GeometryError, match="patience_s"):
        bed.open(1, patience_s=patience_s)


@pytest.mark.parametrize(("field", "value"), [("num_hosts", 2.5), ("blocks_per_host", 2**30), ("block_tokens", 0)])
def test_a_geometry_that_cannot_be_numbered_is_refused(field, value):
    shape = {"num_hosts": 2, "num_layers": 1, "block_tokens": 64, "blocks_per_host": 1, field: value}
    with pytest.raises(GeometryError, match=r"must be a whole number|exceed 2147483647 blocks"):
        PoolGeometry(KvLayout.bf16(), **shape)


def test_rows_that_are_split_otherwise_make_a_foreign_pool(kit):
    geometry = kit.geometry_of(KvLayout.bf16(512, 64))
    memory = kit.memory_for(geometry)
    kit.create(memory, geometry)
    memory.layout = KvLayout.bf16(64, 512)  # as many bytes
    with pytest.raises(PoolFormatError, match="the pool has latent=512, rope=64; this store has latent=64, rope=512"):
        Pool.open(memory, host=1)


def test_a_creator_that_the_pool_would_not_have_destroys_nothing(kit, bed):
    hashes = kit.chain(1, 2, bed.geometry)
    kit.put(bed.pools[0], hashes)
    with pytest.raises(GeometryError, match=r"host=7 lies outside \[0, 2\)"):
        kit.create(bed.stores[0], bed.geometry, host=7, replace=True)
    kit.require_readable(bed.pools[1], hashes)


def test_a_pool_of_another_version_is_not_taken_for_free_memory(kit, bed):
    bed.memory.write_bytes(8, np.frombuffer((99).to_bytes(8, "little"), np.uint8))
    with pytest.raises(PoolFormatError, match="holds a pool already"):
        kit.create(bed.memory, bed.geometry)
    kit.create(bed.memory, bed.geometry, replace=True)


def interrupted_after(monkeypatch, owner, name):
    """The next call of `name` does its work and is then cut off; later ones are as ever."""
    right = getattr(owner, name)

    def cut_off(self, *arguments, **options):
        monkeypatch.setattr(owner, name, right)
        right(self, *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, cut_off)


def test_a_publication_that_is_cut_off_leaves_its_blocks_to_nobody(kit, bed, monkeypatch):
    """The state line is out and the process does not know: whatever it does next, its readers must not see other bytes."""
    hashes = kit.chain(1, 2, bed.geometry)
    interrupted_after(monkeypatch, Hosts, "write")
    with pytest.raises(KeyboardInterrupt):
        kit.put(bed.pools[0], hashes)
    assert bed.pools[0].count(BlockState.HELD) == 2
    held = np.array([0, 1])
    for act in (
        lambda: bed.pools[0].allocate(1),
        lambda: bed.pools[0].write(held, 0, np.zeros((2, 656), np.uint8)),
        lambda: bed.pools[0].publish(held, hashes),
        lambda: kit.put(bed.pools[0], kit.chain(2, 1, bed.geometry)),
    ):
        with pytest.raises(FencedError, match="an append was cut off"):
            act()
    kit.require_readable(bed.pools[1], hashes)
    bed.pools[0].close()
    kit.require_readable(bed.open(0), hashes)


def test_a_lease_that_is_cut_off_while_it_begins_holds_nothing_back(kit, bed, monkeypatch):
    blocks = kit.put(bed.pools[0], kit.chain(1, 6, bed.geometry))
    for owner, name in ((Leases, "_announce"), (Directory, "catch_up")):
        interrupted_after(monkeypatch, owner, name)
        with pytest.raises(KeyboardInterrupt), bed.pools[1].lease():
            raise AssertionError("unreachable")
    bed.pools[0].retire(blocks)
    assert len(bed.pools[0].allocate(6)) == 6

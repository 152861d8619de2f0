"""A memory is a pool of exactly this kind, or it is refused with both sides named."""

import numpy as np
import pytest

from sac_runtime.errors import GeometryError, PoolFormatError
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.pool.format import PoolGeometry, read_superblock
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import KvLayout, Quantiser
from tests.support.pool import chain, create, geometry_of, memory_for, put

SUPERBLOCK_BYTES = 192


@pytest.fixture
def shared(tmp_path):
    """Opens one file, in which there is a pool, with any layout and offset."""
    geometry = geometry_of()
    path = tmp_path / "pool"

    def open_as(layout=geometry.layout, num_rows=None, metadata_bytes=geometry.metadata_bytes):
        return MappedStore.shared(path, layout=layout, num_rows=num_rows, metadata_bytes=metadata_bytes)

    with open_as(num_rows=geometry.num_rows) as store:
        create(store, geometry).close()
    return open_as


def poke(store, offset, value):
    store.write_bytes(offset, np.frombuffer(value, np.uint8))


def test_a_pool_opens_with_the_geometry_that_it_was_created_with(shared):
    with shared() as store, Pool.open(store, host=1, expected=geometry_of()) as pool:
        assert pool.geometry == geometry_of()


def test_empty_memory_is_no_pool():
    with pytest.raises(PoolFormatError, match=r"magic=b'\\x00.*a pool has b'SACPOOL\\x00'.*none is created yet"):
        Pool.open(memory_for(geometry_of()), host=0)


def test_another_version_is_refused_with_both_named(shared):
    with shared() as store:
        poke(store, 8, (99).to_bytes(8, "little"))
        with pytest.raises(PoolFormatError, match="the pool has version=99, this runtime reads version=3"):
            Pool.open(store, host=0)


def test_a_superblock_torn_anywhere_is_refused(shared):
    with shared() as store:
        whole = np.empty(SUPERBLOCK_BYTES, np.uint8)
        store.read_bytes(0, whole)
        for word in range(0, SUPERBLOCK_BYTES, 8):
            torn = whole.copy()
            torn[word : word + 8] ^= 0xFF
            store.write_bytes(0, torn)
            with pytest.raises(PoolFormatError):
                read_superblock(store)
        poke(store, 64, whole[64:].tobytes())


@pytest.mark.parametrize(
    ("layout", "named"),
    [
        (KvLayout.bf16(), "the pool has layout_name=fp8, quantiser=ue8m0-deepseek, row_bytes=656, stride_bytes=704; "),
        (KvLayout.fp8(padded=False), "the pool has stride_bytes=704; this store has stride_bytes=656"),
        (KvLayout.fp8(quantiser=Quantiser.FP32_SGLANG), "this store has quantiser=fp32-sglang"),
    ],
)
def test_another_row_format_is_refused_with_both_named(shared, layout, named):
    with shared(layout) as store, pytest.raises(PoolFormatError, match=named):
        Pool.open(store, host=0)


def test_another_metadata_region_is_refused_with_both_named(shared):
    offset = geometry_of().metadata_bytes
    named = f"the pool has rows_offset={offset}; this store has rows_offset={offset + 4096}"
    with shared(metadata_bytes=offset + 4096) as store, pytest.raises(PoolFormatError, match=named):
        Pool.open(store, host=0)


def test_another_geometry_than_expected_is_refused_with_both_named(shared):
    with shared() as store, pytest.raises(PoolFormatError, match="the pool has num_layers=2; expected num_layers=61"):
        Pool.open(store, host=0, expected=geometry_of(num_layers=61))


def test_a_host_that_the_pool_has_no_place_for_is_refused(shared):
    with shared() as store, pytest.raises(GeometryError, match=r"host=2 lies outside \[0, 2\)"):
        Pool.open(store, host=2)


def test_creating_over_a_pool_needs_to_be_asked_for(shared):
    with shared() as store:
        with pytest.raises(PoolFormatError, match="replace=True"):
            create(store, geometry_of())
        create(store, geometry_of(num_layers=1), replace=True)
        assert read_superblock(store)[0].num_layers == 1


def test_a_new_pool_takes_nothing_over_from_the_one_that_it_replaces():
    geometry = geometry_of()
    with memory_for(geometry) as store:
        hashes = chain(1, 4, geometry)
        put(create(store, geometry), hashes)
        pool = create(store, geometry, replace=True)
        assert pool.num_free == geometry.blocks_per_host
        put(pool, chain(2, 1, geometry))
        assert pool.lookup(hashes).tolist() == [-1] * 4


def test_a_store_too_small_for_a_pool_is_refused_by_what_is_missing():
    geometry = geometry_of()
    few_rows = MappedStore.anonymous(geometry.layout, geometry.num_rows - 1, False, geometry.metadata_bytes)
    with pytest.raises(GeometryError, match=f"num_rows={geometry.num_rows - 1}, the pool needs {geometry.num_rows}"):
        create(few_rows, geometry)
    no_metadata = MappedStore.anonymous(geometry.layout, geometry.num_rows, False)
    with pytest.raises(GeometryError, match=f"is 0 bytes, the pool needs {geometry.metadata_bytes}"):
        create(no_metadata, geometry)


def test_by_default_a_pool_takes_all_rows_of_its_store():
    geometry = geometry_of(blocks_per_host=9)
    with memory_for(geometry) as store:
        assert Pool.create(store, host=0, num_hosts=2, num_layers=2, block_tokens=2).geometry == geometry


def test_blocks_that_would_share_a_line_are_refused():
    with pytest.raises(GeometryError, match="blocks of 656 bytes, which share a cache line"):
        PoolGeometry(KvLayout.fp8(padded=False), num_hosts=1, num_layers=1, block_tokens=1, blocks_per_host=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hosts", 0), ("num_hosts", 65), ("num_layers", 0), ("block_tokens", 65536), ("index_key_bytes", -1)],
)
def test_a_field_out_of_bounds_is_named(field, value):
    with pytest.raises(GeometryError, match=f"{field}={value}"):
        geometry_of(**{field: value})


@pytest.mark.parametrize("size_bytes", [1 << 20, 10_000_001, 256 << 20, 3 << 30])
@pytest.mark.parametrize("block_tokens", [1, 64])
def test_fitting_takes_as_many_blocks_as_a_memory_holds(size_bytes, block_tokens):
    options = {"num_hosts": 2, "num_layers": 3, "block_tokens": block_tokens, "index_key_bytes": 132}
    geometry = PoolGeometry.fitting(size_bytes, KvLayout.fp8(), **options)
    assert geometry.size_bytes <= size_bytes
    one_more = PoolGeometry(KvLayout.fp8(), 2, 3, block_tokens, geometry.blocks_per_host + 1, 132)
    assert one_more.size_bytes > size_bytes


def test_a_memory_too_small_for_one_block_is_refused():
    with pytest.raises(GeometryError, match="holds no block"):
        PoolGeometry.fitting(1 << 20, KvLayout.bf16(), num_hosts=1, num_layers=61, block_tokens=64)


def test_no_two_parts_of_a_pool_overlap():
    geometry = geometry_of(num_hosts=5, blocks_per_host=7)
    lines = [*range(0, SUPERBLOCK_BYTES, 64)]
    for host in range(5):
        lines += [geometry.state_offset(host, 0), geometry.state_offset(host, 1)]
        lines += [geometry.mark_offset(host, fencer) for fencer in range(5)]
        lines += [geometry.journal_offset(host) + 64 * slot for slot in range(geometry.journal_slots)]
    assert len(set(lines)) == len(lines)
    assert max(lines) < geometry.metadata_bytes
    assert all(line % 64 == 0 for line in lines)

"""Rows with checks: what is read is what was written, or is mended, or is refused by name."""

import numpy as np
import pytest

from emulation.stores.incoherent import IncoherentStore
from sac_runtime import native
from sac_runtime.errors import GeometryError, PoolFormatError, RowCheckError
from sac_runtime.fetch.request import FetchConfig, RequestKv
from sac_runtime.memory.backing import Backing
from sac_runtime.memory.checked import CheckedStore
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import KvLayout
from sac_runtime.rows.placement import LayerFirst
from tests.support.pool import chain, contents, create, geometry_of, read

LAYOUTS = [KvLayout.fp8().checked(), KvLayout.bf16().checked(), KvLayout("odd", 133, 160).checked()]
NUM_ROWS = 50


def carried(layout, num_rows=NUM_ROWS, **options):
    return MappedStore.anonymous(layout.carrier, num_rows, huge_pages=False, **options)


def filled(layout, **options):
    """A store with all rows written, the memory behind it, and what they hold."""
    memory = carried(layout)
    store = CheckedStore(memory, layout, **options)
    values = np.random.default_rng(0).integers(0, 256, (NUM_ROWS, layout.row_bytes), dtype=np.uint8)
    store.write_rows(np.arange(NUM_ROWS), values)
    return store, memory, values


def flip(memory, row, byte, bit=0):
    raw = np.empty(1, np.uint8)
    offset = row * memory.layout.stride_bytes + byte
    memory.read_bytes(offset, raw)
    memory.write_bytes(offset, raw ^ np.uint8(1 << bit))


@pytest.mark.parametrize("plain", [0, 1], ids=["instruction", "plain"])
def test_the_checksum_is_crc32c(plain):
    """RFC 3720, B.4, and the check value of the catalogue of CRCs."""
    for message, crc in [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (b"", 0)]:
        array = np.frombuffer(message + b"\0", np.uint8).copy()
        assert native.load().sac_crc32c(native.address(array), len(message), plain) == crc


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_instruction_and_the_plain_way_seal_alike(layout):
    _, memory, values = filled(layout)
    plain = CheckedStore(memory, layout, plain=True)
    out = np.empty_like(values)
    plain.read_rows(np.arange(NUM_ROWS), out)
    assert (out == values).all()
    assert plain.num_reread == 0


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_flipped_bit_anywhere_in_row_or_check_is_refused_by_row(layout):
    store, memory, values = filled(layout)
    out = np.empty((3, layout.row_bytes), np.uint8)
    rows = np.array([4, 7, 9])
    for byte in range(layout.row_bytes + layout.check_bytes):
        flip(memory, 7, byte, byte % 8)
        with pytest.raises(RowCheckError, match="rows 7: their bytes do not give their checksums") as caught:
            store.read_rows(rows, out)
        assert caught.value.rows == [7]
        flip(memory, 7, byte, byte % 8)
    store.read_rows(rows, out)
    assert (out == values[rows]).all()
    assert store.num_refused == layout.row_bytes + layout.check_bytes


def test_half_a_row_a_row_of_another_place_and_one_never_written_are_refused():
    layout = LAYOUTS[0]
    store, memory, _ = filled(layout)
    out = np.empty((1, layout.row_bytes), np.uint8)
    raw = np.empty((2, memory.layout.row_bytes), np.uint8)
    memory.read_rows(np.array([1, 2]), raw)
    torn = np.concatenate([raw[0, :320], raw[1, 320:]])[np.newaxis]
    blank = np.zeros((1, memory.layout.row_bytes), np.uint8)
    for bad in (torn, raw[1:], blank):
        memory.write_rows(np.array([1]), np.ascontiguousarray(bad))
        with pytest.raises(RowCheckError):
            store.read_rows(np.array([1]), out)
    memory.write_rows(np.array([0]), blank)
    with pytest.raises(RowCheckError):
        store.read_rows(np.array([0]), out)


def test_a_bad_copy_in_the_cache_is_read_again_from_memory():
    layout = LAYOUTS[0]
    _, memory, values = filled(layout)
    cache = IncoherentStore(memory)
    store, out = CheckedStore(cache, layout), np.empty((1, layout.row_bytes), np.uint8)
    flip(memory, 3, 100)
    with pytest.raises(RowCheckError):
        store.read_rows(np.array([3]), out)  # the cache holds the bad line now
    cache.read_rows(np.array([3]), np.empty((1, memory.layout.row_bytes), np.uint8))
    flip(memory, 3, 100)
    store.read_rows(np.array([3]), out)
    assert (out == values[3]).all()
    assert (store.num_reread, store.num_refused) == (1, 1)


def test_rows_are_healed_from_a_replica_into_their_slots_and_counted():
    layout = LAYOUTS[0]
    store, memory, values = filled(layout)
    replica, *_ = filled(layout)

    def from_replica(rows):
        out = np.empty((rows.size, layout.row_bytes), np.uint8)
        replica.read_rows(rows, out)
        return out

    store.heal = from_replica
    flip(memory, 5, 0)
    flip(memory, 6, 655)
    slots, buffer = np.array([3, 0, 1]), np.zeros((4, layout.row_bytes), np.uint8)
    store.read_rows_into_slots(np.array([5, 8, 6]), buffer, slots)
    assert (buffer[slots] == values[[5, 8, 6]]).all()
    assert (store.num_healed, store.num_refused) == (2, 0)
    store.heal = lambda rows: None
    with pytest.raises(RowCheckError, match="rows 5, 6"):
        store.read_rows(np.array([5, 6]), np.empty((2, layout.row_bytes), np.uint8))


def test_a_fetch_names_layer_and_rows_and_forgets_what_it_planned():
    layout = KvLayout.fp8().checked()
    memory = carried(layout, 40)
    store = CheckedStore(memory, layout)
    store.write_rows(np.arange(40), np.ones((40, layout.row_bytes), np.uint8))
    config = FetchConfig(num_layers=2, top_k=4, capacity=6)
    request = RequestKv(Backing(store, LayerFirst(2, 20)), config, num_tokens=10, tokens_capacity=20)
    request.fetch(1, np.arange(4))
    flip(memory, 27, 9)
    with pytest.raises(RowCheckError, match="layer 1, rows 27"):
        request.fetch(1, np.array([0, 1, 7, 8]))
    flip(memory, 27, 9)
    plan, _ = request.fetch(1, np.array([0, 1, 7, 8]))
    assert plan.misses == 4
    assert (request.chosen_rows(1, plan) == 1).all()


def checked_pool(geometry):
    memory = MappedStore.anonymous(
        geometry.layout.carrier, geometry.num_rows, huge_pages=False, metadata_bytes=geometry.metadata_bytes
    )
    return memory, CheckedStore(memory, geometry.layout)


def test_a_pool_with_checks_refuses_a_flipped_row_and_stores_without_checks():
    geometry = geometry_of(KvLayout.fp8().checked(), index_key_bytes=132)
    memory, store = checked_pool(geometry)
    pool, hashes = create(store, geometry), chain(1, 2, geometry)
    keys = np.random.default_rng(1).integers(0, 256, (2, 4, 132), dtype=np.uint8)
    blocks = pool.put(hashes, contents(hashes, geometry), keys)
    assert (read(pool, blocks) == contents(hashes, geometry)).all()
    assert (pool.read_index_keys(blocks, 1) == keys[1]).all()
    row = int(pool.rows(blocks, 1)[3])
    raw = np.empty(1, np.uint8)
    offset = store.rows_offset + row * geometry.layout.stride_bytes + 17
    memory.read_bytes(offset, raw)
    memory.write_bytes(offset, raw ^ np.uint8(64))
    with pytest.raises(RowCheckError, match=f"rows {row}:"):
        read(pool, blocks)
    plain = MappedStore.anonymous(KvLayout.fp8(), geometry.num_rows, False, geometry.metadata_bytes)
    image = np.empty(geometry.metadata_bytes, np.uint8)
    memory.read_bytes(0, image)
    plain.write_bytes(0, image)
    with pytest.raises(PoolFormatError, match="the pool has check_bytes=16; this store has check_bytes=0"):
        Pool.open(plain, host=1)


def test_a_store_that_carries_other_rows_is_refused():
    with pytest.raises(GeometryError, match="checked store: layout"):
        CheckedStore(MappedStore.anonymous(KvLayout.fp8(), 1, huge_pages=False), KvLayout.fp8().checked())
    with pytest.raises(GeometryError, match="has check_bytes=16, which this store does not know"):
        MappedStore.anonymous(KvLayout.fp8().checked(), 1, huge_pages=False)


def test_checks_cost_no_memory_where_padding_has_room_and_a_line_where_not():
    assert KvLayout.fp8().checked().stride_bytes == KvLayout.fp8().stride_bytes
    assert KvLayout.bf16().checked().stride_bytes == KvLayout.bf16().stride_bytes + 64
    assert PoolGeometry(KvLayout.bf16().checked(), 2, 1, 64, 1).block_bytes % 64 == 0

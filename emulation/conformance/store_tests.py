"""The contract of a KvStore as tests: subclass StoreTests, say how a store is made, run pytest. Needs pytest; knows the seam alone.

    class TestMyStore(StoreTests):
        @contextmanager
        def opened(self, layout, num_rows, metadata_bytes):
            with MyStore(layout, num_rows, metadata_bytes) as store:
                yield store

A store that departs from the contract on purpose says so in the class attributes; all else must hold for every store.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest

from sac_runtime.errors import RowRangeError, SacError
from sac_runtime.fetch.hot_buffer import HotBuffer
from sac_runtime.label import Label
from sac_runtime.memory.gather import slot_gather
from sac_runtime.memory.store import KvStore
from sac_runtime.rows.layout import LINE_BYTES, ByteArray, IntArray, KvLayout
from sac_runtime.rows.placement import LayerRows

NUM_ROWS, METADATA_BYTES = 100, 4096
LAYOUTS = [
    KvLayout.bf16(),
    KvLayout.fp8(padded=False),
    KvLayout("odd", 133, 139),
]  # whole lines, shared lines, nothing even
BY_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.row_bytes}-{layout.stride_bytes}")


class StoreTests:
    """What every KvStore does. Each test opens stores of its own.

    claims_time: whether reads and writes take a time; without, they return 0 and the label must be functional.
    refuses_after_close: whether a closed store raises a SacError, rather than whatever its memory does."""

    claims_time = True
    refuses_after_close = True

    def opened(self, layout: KvLayout, num_rows: int, metadata_bytes: int) -> AbstractContextManager[KvStore]:
        """A store of at least `num_rows` rows of `layout` behind `metadata_bytes`, closed at the end."""
        raise NotImplementedError(f"{type(self).__name__}: opened() is to be written by the store under test")

    @contextmanager
    def filled(self, layout: KvLayout = LAYOUTS[0]) -> Iterator[tuple[KvStore, ByteArray]]:
        """A store and the values of its rows, (NUM_ROWS, row_bytes), which are written."""
        values = np.random.default_rng(1).integers(0, 256, (NUM_ROWS, layout.row_bytes), np.uint8)
        with self.opened(layout, NUM_ROWS, METADATA_BYTES) as store:
            store.write_rows(np.arange(NUM_ROWS), values)
            yield store, values

    def test_it_tells_its_geometry(self) -> None:
        for layout in LAYOUTS:
            with self.opened(layout, NUM_ROWS, METADATA_BYTES) as store:
                assert store.layout == layout
                assert store.num_rows >= NUM_ROWS
                assert store.rows_offset == METADATA_BYTES
                assert store.size_bytes >= METADATA_BYTES + store.num_rows * layout.stride_bytes

    def test_its_label_says_whether_it_claims_a_time(self) -> None:
        with self.filled() as (store, values):
            assert store.label in list(Label)
            if not self.claims_time:
                assert store.label is Label.FUNCTIONAL
            out = np.empty_like(values[:50])
            for elapsed_ns in (store.write_rows(np.arange(50), values[:50]), store.read_rows(np.arange(50), out)):
                assert elapsed_ns > 0 if self.claims_time else elapsed_ns == 0

    @BY_LAYOUT
    def test_rows_come_back_in_any_order_and_more_than_once(self, layout: KvLayout) -> None:
        with self.filled(layout) as (store, values):
            rows = np.random.default_rng(2).integers(0, NUM_ROWS, 3 * NUM_ROWS)
            assert np.array_equal(_read(store, rows), values[rows])

    @BY_LAYOUT
    def test_a_row_lies_at_its_offset_and_padding_is_never_written(self, layout: KvLayout) -> None:
        with self.filled(layout) as (store, values):
            raw = np.empty(NUM_ROWS * layout.stride_bytes, np.uint8)
            store.read_bytes(store.rows_offset, raw)
            laid_out = raw.reshape(NUM_ROWS, layout.stride_bytes)
            assert np.array_equal(laid_out[:, : layout.row_bytes], values)
            assert not laid_out[:, layout.row_bytes :].any()

    @BY_LAYOUT
    def test_a_write_touches_its_rows_alone(self, layout: KvLayout) -> None:
        with self.filled(layout) as (store, values):
            rows = np.array([40, 3, 41])
            values[rows] = np.random.default_rng(3).integers(0, 256, (3, layout.row_bytes), np.uint8)
            store.write_rows(rows, values[rows])
            assert np.array_equal(_read(store, np.arange(NUM_ROWS)), values)
            metadata = np.empty(METADATA_BYTES, np.uint8)
            store.read_bytes(0, metadata)
            assert not metadata.any()

    def test_of_equal_row_numbers_the_last_write_wins(self) -> None:
        with self.filled() as (store, values):
            store.write_rows(np.array([7, 7, 7]), values[:3])
            assert np.array_equal(_read(store, np.array([7]))[0], values[2])

    def test_no_rows_are_no_work(self) -> None:
        with self.filled() as (store, values):
            none = np.empty(0, np.int64)
            store.write_rows(none, values[:0])
            assert store.read_rows(none, values[:0].copy()) >= 0

    def test_bytes_at_any_offset_and_length_come_back(self) -> None:
        random = np.random.default_rng(4)
        with self.opened(LAYOUTS[0], NUM_ROWS, METADATA_BYTES) as store:
            mirror, held = np.zeros(store.size_bytes, np.uint8), np.empty(store.size_bytes, np.uint8)
            for _ in range(60):
                offset, size = int(random.integers(0, store.size_bytes - 200)), int(random.integers(0, 200))
                mirror[offset : offset + size] = random.integers(0, 256, size)
                store.write_bytes(offset, mirror[offset : offset + size])
                piece = held[offset // 2 : offset // 2 + size]
                store.read_bytes(offset // 2, piece)
                assert np.array_equal(piece, mirror[offset // 2 : offset // 2 + size])
            store.read_bytes(0, held)
            assert np.array_equal(held, mirror)

    @pytest.mark.parametrize("outside", [-1, 1, 1 << 62], ids=["below", "beyond", "far-beyond"])
    def test_a_row_outside_is_refused_and_nothing_moves(self, outside: int) -> None:
        with self.filled() as (store, values):
            rows = np.array([3, 5, outside if outside < 0 else store.num_rows - 1 + outside])
            out = np.full((3, store.layout.row_bytes), 9, np.uint8)
            with pytest.raises(RowRangeError):
                store.read_rows(rows, out)
            assert (out == 9).all()
            with pytest.raises(RowRangeError):
                store.write_rows(rows, out)
            assert np.array_equal(_read(store, np.arange(NUM_ROWS)), values)

    def test_bytes_outside_are_refused(self) -> None:
        with self.filled() as (store, _):
            for offset, size in ((-1, 1), (store.size_bytes - 3, 4), (store.size_bytes, 1)):
                some = np.zeros(size, np.uint8)
                for reach in (store.read_bytes, store.write_bytes):
                    with pytest.raises(RowRangeError):
                        reach(offset, some)
                for touch in (store.flush, store.invalidate):
                    with pytest.raises(RowRangeError):
                        touch(offset, size)

    def test_flushes_and_invalidations_lose_nothing_whatever_their_bounds(self) -> None:
        with self.filled(LAYOUTS[2]) as (store, values):
            store.flush(METADATA_BYTES + 1, store.size_bytes - METADATA_BYTES - 1)
            store.fence()
            store.invalidate(METADATA_BYTES + LINE_BYTES // 2, NUM_ROWS * store.layout.stride_bytes // 2)
            store.fence()
            assert np.array_equal(_read(store, np.arange(NUM_ROWS)), values)
            store.write_rows(np.arange(NUM_ROWS), values[::-1].copy())
            store.invalidate(0, store.size_bytes)  # a dirty line is written back before it is dropped
            store.fence()
            assert np.array_equal(_read(store, np.arange(NUM_ROWS)), values[::-1])

    @BY_LAYOUT
    def test_a_fetch_brings_the_misses_of_a_plan_into_their_slots(self, layout: KvLayout) -> None:
        with self.filled(layout) as (store, values):
            buffer, slots = HotBuffer(12, 8), np.zeros((13, layout.row_bytes), np.uint8)
            gather, random = slot_gather(store, buffer, slots), np.random.default_rng(5)
            place = LayerRows(0, NUM_ROWS, random.permutation(NUM_ROWS))
            assert place.table is not None
            for length in range(9, NUM_ROWS):  # on the direct path, then under LRU
                topk = random.permutation(length - 1)[:8]
                plan, elapsed_ns = gather.fetch(topk, length, place)
                assert plan.newest_slot is not None
                slots[plan.newest_slot] = values[place.table[length - 1]]  # made on this host, as in a decode
                assert np.array_equal(slots[plan.slots], values[place.table[topk]])
                assert elapsed_ns >= 0
                if self.claims_time and plan.misses:
                    assert elapsed_ns > 0

    def test_a_fetch_that_fails_leaves_no_row_taken_for_present(self) -> None:
        with self.filled() as (store, values):
            buffer, slots = HotBuffer(12, 8), np.zeros((13, store.layout.row_bytes), np.uint8)
            gather = slot_gather(store, buffer, slots)
            with pytest.raises(RowRangeError):
                gather.fetch(np.array([1, 2]), 30, LayerRows(store.num_rows - 2, 30))  # token 2 lies outside
            plan, _ = gather.fetch(np.array([1, 2]), 30, LayerRows(0, 30))
            assert plan.misses == 2
            assert np.array_equal(slots[plan.slots], values[1:3])

    def test_it_is_a_context_manager_and_may_be_closed_again(self) -> None:
        with self.filled() as (store, values), store as entered:
            assert entered is store
        store.close()
        if self.refuses_after_close:
            with pytest.raises(SacError):
                store.read_rows(np.array([1]), values[:1].copy())


def _read(store: KvStore, rows: IntArray) -> ByteArray:
    out = np.empty((rows.size, store.layout.row_bytes), np.uint8)
    store.read_rows(rows, out)
    return out

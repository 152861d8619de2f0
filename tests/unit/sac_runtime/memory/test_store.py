"""MappedStore on every memory that a test machine has: bytes, refusals, placement. What needs a device runs in the VM tests."""

import os
import resource
import subprocess
import sys
import threading

import numpy as np
import pytest

from sac_runtime import native
from sac_runtime.errors import GeometryError, RowRangeError, StoreError
from sac_runtime.label import Label
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.memory.mapping import HUGE_PAGE_BYTES, huge_page_bytes
from sac_runtime.memory.store import KvStore
from sac_runtime.rows.layout import KvLayout

ODD = KvLayout("odd", 133, 139)  # nothing about it is a multiple of anything
LAYOUTS = [KvLayout.bf16(), KvLayout.fp8(), KvLayout.fp8(padded=False), ODD]
NUM_ROWS = 1000


def usable_copies():
    return [copy for copy in native.Copy if copy <= native.best_copy() or copy is native.Copy.NARROW]


def random_rows(layout, n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, layout.row_bytes), dtype=np.uint8)


@pytest.fixture
def values():
    return random_rows(KvLayout.fp8(), NUM_ROWS)


@pytest.fixture
def store(values):
    with MappedStore.anonymous(KvLayout.fp8(), NUM_ROWS, metadata_bytes=4096) as store:
        store.write_rows(np.arange(NUM_ROWS), values)
        yield store


@pytest.mark.parametrize("copy", usable_copies(), ids=lambda copy: copy.name)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.row_bytes}-{layout.stride_bytes}")
@pytest.mark.parametrize("prefetch_rows", [0, 5, 5000])
def test_rows_come_back_whatever_the_instruction_set_and_layout(layout, copy, prefetch_rows):
    values = random_rows(layout, NUM_ROWS)
    with MappedStore.anonymous(layout, NUM_ROWS, copy=copy, prefetch_rows=prefetch_rows, metadata_bytes=4096) as store:
        order = np.random.default_rng(1).permutation(NUM_ROWS)
        store.write_rows(order, values[order])
        chosen = np.random.default_rng(2).integers(0, NUM_ROWS, 300)
        out = np.zeros((300, layout.row_bytes), np.uint8)
        assert store.read_rows(chosen, out) > 0
        assert np.array_equal(out, values[chosen])
        raw = np.zeros(NUM_ROWS * layout.stride_bytes, np.uint8)
        store.read_bytes(store.rows_offset, raw)
        laid_out = raw.reshape(NUM_ROWS, -1)
        assert np.array_equal(laid_out[:, : layout.row_bytes], values)
        assert not laid_out[:, layout.row_bytes :].any(), "padding is never written"


def test_a_gather_into_slots_touches_those_slots_alone(store, values):
    slots = np.random.default_rng(3).permutation(500)[:200]
    buffer = np.full((500, 656), 7, np.uint8)
    store.read_rows_into_slots(np.arange(200), buffer, slots)
    assert np.array_equal(buffer[slots], values[:200])
    assert (np.delete(buffer, slots, axis=0) == 7).all()


def test_no_rows_are_no_work(store):
    empty = np.zeros(0, np.int64)
    store.read_rows(empty, np.zeros((0, 656), np.uint8))
    store.write_rows(empty, np.zeros((0, 656), np.uint8))


def test_of_equal_row_numbers_the_last_write_wins(store):
    store.write_rows(np.array([4, 4]), np.stack([np.full(656, 1, np.uint8), np.full(656, 2, np.uint8)]))
    out = np.zeros((1, 656), np.uint8)
    store.read_rows(np.array([4]), out)
    assert (out == 2).all()


@pytest.mark.parametrize("bad", [-1, NUM_ROWS, 1 << 62])
def test_a_row_outside_is_named_and_nothing_is_moved(store, values, bad):
    rows = np.array([3, 5, bad])
    out = np.full((3, 656), 9, np.uint8)
    with pytest.raises(RowRangeError, match=rf"store 'anonymous': rows\[2\]={bad} lies outside \[0, 1000\)"):
        store.read_rows(rows, out)
    assert (out == 9).all()
    with pytest.raises(RowRangeError):
        store.write_rows(rows, out)
    store.read_rows(np.array([3, 5, 5]), out)
    assert np.array_equal(out[:2], values[[3, 5]])


def test_a_slot_outside_is_named(store):
    with pytest.raises(RowRangeError, match=r"slots\[1\]=9 lies outside \[0, 9\)"):
        store.read_rows_into_slots(np.array([1, 2]), np.zeros((9, 656), np.uint8), np.array([0, 9]))


@pytest.mark.parametrize(
    ("rows", "out", "message"),
    [
        (np.zeros(2, np.int32), np.zeros((2, 656), np.uint8), "rows is int32"),
        (np.zeros((2, 1), np.int64), np.zeros((2, 656), np.uint8), r"shape \(2, 1\)"),
        (np.zeros(4, np.int64)[::2], np.zeros((2, 656), np.uint8), "contiguous"),
        (np.int64(2), np.zeros((1, 656), np.uint8), r"rows is int64 of shape \(\)"),
        (np.zeros(2, np.int64), np.zeros((2, 704), np.uint8), r"it must be uint8 of shape \(2, 656\)"),
        (np.zeros(2, np.int64), np.zeros((2, 656), np.int8), "out is int8"),
        (np.zeros(2, np.int64), np.zeros((2, 1312), np.uint8)[:, ::2], "contiguous"),
    ],
)
def test_arrays_of_another_shape_or_type_are_refused(store, rows, out, message):
    with pytest.raises(GeometryError, match=message):
        store.read_rows(rows, out)


def test_what_is_read_never_goes_into_a_read_only_array(store):
    row, slot = np.zeros(1, np.int64), np.zeros(1, np.int64)
    frozen = np.zeros((1, 656), np.uint8)
    frozen.flags.writeable = False
    with pytest.raises(GeometryError, match="out: is read-only"):
        store.read_rows(row, frozen)
    with pytest.raises(GeometryError, match="buffer: is read-only"):
        store.read_rows_into_slots(row, frozen, slot)
    with pytest.raises(GeometryError, match="out: is read-only"):
        store.read_bytes(0, frozen[0])
    assert not frozen.any()
    store.write_rows(row, frozen)


def test_more_rows_than_can_be_addressed_are_refused():
    with pytest.raises(StoreError, match="cannot be mapped"):
        MappedStore.anonymous(KvLayout.fp8(), 1 << 60)


@pytest.mark.parametrize("copy", [None, native.Copy.NARROW])
def test_bytes_at_any_offset_and_length_come_back(copy):
    random = np.random.default_rng(0)
    with MappedStore.anonymous(KvLayout.bf16(), 10, copy=copy) as store:
        mirror = np.zeros(store.size_bytes, np.uint8)
        for _ in range(200):
            offset, size = int(random.integers(0, store.size_bytes - 100)), int(random.integers(0, 100))
            mirror[offset : offset + size] = random.integers(0, 256, size)
            store.write_bytes(offset, mirror[offset : offset + size])
        back = np.zeros_like(mirror)
        store.read_bytes(0, back)
        assert np.array_equal(back, mirror)


def test_bytes_outside_are_refused(store):
    for reach in (store.read_bytes, store.write_bytes):
        with pytest.raises(RowRangeError, match="lie outside"):
            reach(store.size_bytes - 3, np.zeros(4, np.uint8))
    for touch in (store.flush, store.invalidate):
        with pytest.raises(RowRangeError, match="lie outside"):
            touch(-64, 64)


def test_flushing_and_invalidating_lose_nothing(store, values):
    store.flush(0, store.size_bytes)
    store.fence()
    store.invalidate(1, store.size_bytes - 1)
    store.fence()
    out = np.zeros_like(values)
    store.read_rows(np.arange(NUM_ROWS), out)
    assert np.array_equal(out, values)


def test_a_closed_store_refuses_every_access_and_closes_again_in_peace(store):
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.read_rows(np.array([1]), np.zeros((1, 656), np.uint8))
    with pytest.raises(StoreError, match="is closed"):
        store.flush(0, 64)


def test_a_mapped_store_is_a_kv_store():
    with MappedStore.anonymous(ODD, 1, label=Label.HARDWARE) as store:
        seam: KvStore = store
        assert (seam.num_rows, seam.rows_offset, seam.size_bytes, seam.label) == (1, 0, 4096, Label.HARDWARE)


@pytest.mark.parametrize(
    ("num_rows", "metadata_bytes", "message"),
    [
        (0, 0, "num_rows=0 must be a whole number, at least 1"),
        (1, 100, r"metadata_bytes=100 is not a multiple of 4096 \(next: 4096\)"),
    ],
)
def test_sizes_that_cannot_be_are_refused(num_rows, metadata_bytes, message):
    with pytest.raises(GeometryError, match=message):
        MappedStore.anonymous(ODD, num_rows, metadata_bytes=metadata_bytes)


def test_two_processes_see_one_shared_file(tmp_path):
    path, layout = tmp_path / "pool", KvLayout.fp8()
    script = (
        "import sys, numpy as np\n"
        "from sac_runtime.rows.layout import KvLayout\n"
        "from sac_runtime.memory.mapped import MappedStore\n"
        "with MappedStore.shared(sys.argv[1], layout=KvLayout.fp8()) as store:\n"
        "    row = np.zeros((1, 656), np.uint8)\n"
        "    store.read_rows(np.array([7]), row)\n"
        "    store.write_rows(np.array([8]), row + 1)\n"
    )
    with MappedStore.shared(path, layout=layout, num_rows=20) as store:
        store.write_rows(np.array([7]), np.full((1, 656), 41, np.uint8))
        subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)
        seen = np.zeros((1, 656), np.uint8)
        store.read_rows(np.array([8]), seen)
    assert (seen == 42).all()


def test_a_shared_file_that_is_too_small_missing_or_beyond_the_disk_is_refused(tmp_path):
    path = tmp_path / "pool"
    with pytest.raises(StoreError, match="cannot be opened: No such file"):
        MappedStore.shared(path, layout=ODD)
    path.write_bytes(bytes(100))
    with pytest.raises(StoreError, match="size_bytes=100 is below the 4096"):
        MappedStore.shared(path, layout=ODD, num_rows=5)
    with pytest.raises(StoreError, match="leaves no room for a row"):
        MappedStore.shared(path, layout=ODD, metadata_bytes=4096)
    with pytest.raises(StoreError, match=r"size_bytes=\d+ exceeds the \d+ bytes free on its file system"):
        MappedStore.shared(tmp_path / "huge", layout=ODD, num_rows=1 << 50)


def test_what_is_no_dax_device_is_refused_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(StoreError, match=r"is not a device-DAX node; make one with: daxctl reconfigure-device"):
        MappedStore.dax("/dev/null", layout=ODD)
    with pytest.raises(StoreError, match="cannot be opened: No such file"):
        MappedStore.dax(tmp_path / "dax0.0", layout=ODD)


def test_huge_pages_of_a_mapping_that_the_kernel_merged_with_a_neighbour_are_counted():
    """100 MiB at 0x40000000; the kernel shows it as one mapping with 8 MiB below it and 4 MiB above."""
    smaps = """3f800000-46800000 rw-p 00000000 00:00 0
Size:             114688 kB
AnonHugePages:    108544 kB
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
AnonHugePages:      4096 kB
"""
    start, end = 0x40000000, 0x40000000 + (100 << 20)
    assert huge_page_bytes(smaps, start, end) == (106 - 12) << 20, "at least: the neighbours may have 12 of the 106 MiB"
    assert huge_page_bytes(smaps, 0x7F0000000000, 0x7F0000400000) == 4 << 20
    assert huge_page_bytes(smaps, 0x10000, 0x20000) == 0


def test_huge_pages_are_counted_where_the_kernel_gave_them():
    rows = 4 * HUGE_PAGE_BYTES // 1152
    with MappedStore.anonymous(KvLayout.bf16(), rows, huge_pages=False) as small:
        small.write_bytes(0, np.ones(small.size_bytes, np.uint8))
        assert small.huge_page_bytes() == 0
    with MappedStore.anonymous(KvLayout.bf16(), rows) as huge:
        assert huge.huge_page_bytes() == 0, "no page yet"
        huge.write_bytes(0, np.ones(huge.size_bytes, np.uint8))
        if not huge.huge_page_bytes():
            pytest.skip("this kernel gives no huge pages on madvise")
        assert huge.huge_page_bytes() % HUGE_PAGE_BYTES == 0


def test_memory_bound_to_a_node_lies_there():
    with MappedStore.numa(0, KvLayout.bf16(), 100) as store:
        assert store.pages_by_node() == {}, "nothing was touched"
        store.write_bytes(0, np.ones(store.size_bytes, np.uint8))
        assert list(store.pages_by_node()) == [0]


def test_a_node_that_is_not_there_is_refused():
    with pytest.raises(StoreError, match="numa node 512: no such node"):
        MappedStore.numa(512, KvLayout.bf16(), 100)


def test_a_team_of_pinned_threads_gathers_the_same_bytes(values):
    cpu = max(os.sched_getaffinity(0))
    with MappedStore.anonymous(KvLayout.fp8(), NUM_ROWS, gather_cpus=(cpu, cpu)) as store:
        store.write_rows(np.arange(NUM_ROWS), values)
        random = np.random.default_rng(0)
        for n in (1, 128, 129, 500):
            rows, out = random.integers(0, NUM_ROWS, n), np.zeros((n, 656), np.uint8)
            store.read_rows(rows, out)
            assert np.array_equal(out, values[rows])
            buffer, slots = np.zeros((NUM_ROWS, 656), np.uint8), random.permutation(NUM_ROWS)[:n]
            store.read_rows_into_slots(rows, buffer, slots)
            assert np.array_equal(buffer[slots], values[rows])
        with pytest.raises(RowRangeError):
            store.read_rows(np.full(200, NUM_ROWS), np.zeros((200, 656), np.uint8))


def test_a_cpu_that_is_not_ours_is_refused():
    with pytest.raises(StoreError, match=r"cannot pin to CPUs \[1000\]"):
        MappedStore.anonymous(ODD, 1, gather_cpus=(1000,))


@pytest.mark.parametrize("gather_cpus", [(), (0,)], ids=["alone", "by-a-team"])
def test_python_threads_may_gather_at_once(gather_cpus, values):
    wrong = []
    store = MappedStore.anonymous(KvLayout.fp8(), NUM_ROWS, gather_cpus=gather_cpus)
    store.write_rows(np.arange(NUM_ROWS), values)

    def read(seed):
        random = np.random.default_rng(seed)
        out = np.zeros((200, 656), np.uint8)
        for _ in range(50):
            rows = random.integers(0, NUM_ROWS, 200)
            store.read_rows(rows, out)
            if not np.array_equal(out, values[rows]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert wrong == []


def test_a_wrong_stride_shows_in_the_bytes(store, values):
    store.layout = KvLayout.fp8(padded=False)
    out = np.zeros((10, 656), np.uint8)
    store.read_rows(np.arange(10), out)
    assert np.array_equal(out[0], values[0]), "row 0 hides the fault"
    assert not np.array_equal(out[1:], values[1:10])


def test_every_page_of_a_shared_file_has_its_place_before_it_is_written(tmp_path):
    """A sparse file, whoever made it, ends a process with SIGBUS once its file system is full."""
    fresh, sparse = tmp_path / "fresh", tmp_path / "sparse"
    sparse.touch()
    os.truncate(sparse, 1 << 20)
    for path in (fresh, sparse):
        with MappedStore.shared(path, layout=ODD, num_rows=100) as store:
            assert path.stat().st_blocks * 512 >= store.size_bytes


def test_a_file_that_cannot_be_allocated_is_refused_by_name_and_left_as_it_was(tmp_path):
    path = tmp_path / "pool"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(StoreError, match=r"size_bytes=\d+ cannot be allocated on its file system: File too large"):
            MappedStore.shared(path, layout=ODD, num_rows=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == 0
    MappedStore.shared(path, layout=ODD, num_rows=100).close()

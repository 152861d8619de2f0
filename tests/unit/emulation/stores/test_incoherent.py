"""A cache that nothing keeps coherent: what it hides, until when, and that random eviction hides no less."""

import numpy as np
import pytest

from emulation.errors import InputError
from emulation.stores.incoherent import IncoherentStore
from emulation.stores.wrapper import WrapperStore
from sac_runtime.errors import RowRangeError
from sac_runtime.label import Label
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import KvLayout

LINE = 64


@pytest.fixture
def memory():
    with MappedStore.anonymous(KvLayout.fp8(padded=False), 32, huge_pages=False, metadata_bytes=4096) as store:
        yield store


def filled(value, size=LINE):
    return np.full(size, value, np.uint8)


def seen(store, offset=0, size=LINE):
    out = np.empty(size, np.uint8)
    store.read_bytes(offset, out)
    return out


def publish(store, offset, value):
    store.write_bytes(offset, filled(value))
    store.flush(offset, LINE)
    store.fence()


def test_a_write_is_not_in_memory_before_its_flush_is_fenced(memory):
    host = IncoherentStore(memory)
    host.write_bytes(0, filled(7))
    assert (seen(memory) == 0).all()
    host.flush(0, LINE)
    assert (seen(memory) == 0).all()
    host.fence()
    assert (seen(memory) == 7).all()
    assert host.num_dirty_lines == 0


def test_a_write_after_a_flush_that_took_effect_at_once_is_not_covered_by_it(memory):
    host = IncoherentStore(memory, flush_early=1.0)
    host.write_bytes(0, filled(7))
    host.flush(0, LINE)
    assert (seen(memory) == 7).all()
    host.write_bytes(0, filled(8))
    host.fence()
    assert (seen(memory) == 7).all()
    assert host.num_dirty_lines == 1
    host.flush(0, LINE)
    assert (seen(memory) == 8).all()


def test_a_write_after_a_flush_that_waits_for_its_fence_is_covered_by_it(memory):
    host = IncoherentStore(memory)
    host.flush(0, LINE)
    host.write_bytes(0, filled(7))
    host.fence()
    assert (seen(memory) == 7).all()


def test_a_flush_may_take_effect_on_some_of_its_lines_at_once_and_on_the_others_at_the_fence(memory):
    host = IncoherentStore(memory, flush_early=0.5)
    host.write_bytes(0, filled(7, 40 * LINE))
    host.flush(0, 40 * LINE)
    early = (seen(memory, 0, 40 * LINE).reshape(40, LINE) == 7).all(axis=1)
    assert 10 < early.sum() < 30
    host.fence()
    assert (seen(memory, 0, 40 * LINE) == 7).all()


class Log:
    """A memory that notes which lines reach it, and fails before the fails_at-th."""

    def __init__(self, memory, fails_at=None):
        self._memory, self._fails_at, self.lines = memory, fails_at, []

    def __getattr__(self, name):
        return getattr(self._memory, name)

    def write_bytes(self, offset, values):
        if len(self.lines) == self._fails_at:
            raise InterruptedError
        assert values.size == LINE
        self.lines.append(offset // LINE)
        self._memory.write_bytes(offset, values)


def fenced_lines(memory, seed):
    log = Log(memory)
    host = IncoherentStore(log, seed=seed)
    host.write_bytes(0, filled(7, 8 * LINE))
    host.invalidate(6 * LINE, 2 * LINE)
    host.flush(0, 7 * LINE)
    host.fence()
    return log.lines


def test_a_fence_writes_each_line_once_in_an_order_of_the_seed(memory):
    orders = {tuple(fenced_lines(memory, seed)) for seed in range(20)}
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len(orders) == 20
    assert fenced_lines(memory, 3) == fenced_lines(memory, 3)


def test_a_host_can_be_stopped_between_two_lines_of_a_fence(memory):
    log = Log(memory, fails_at=3)
    host = IncoherentStore(log)
    host.write_bytes(0, filled(7, 8 * LINE))
    host.flush(0, 8 * LINE)
    with pytest.raises(InterruptedError):
        host.fence()
    assert np.flatnonzero(seen(memory, 0, 8 * LINE).reshape(8, LINE)[:, 0] == 7).tolist() == sorted(log.lines)
    assert host.num_dirty_lines == 5


def test_a_fence_without_a_flush_writes_nothing_back(memory):
    host = IncoherentStore(memory)
    host.write_bytes(0, filled(7))
    host.fence()
    assert (seen(memory) == 0).all()


def test_a_line_read_once_stays_old_until_its_invalidation_is_fenced(memory):
    writer, reader = IncoherentStore(memory), IncoherentStore(memory)
    assert (seen(reader) == 0).all()
    publish(writer, 0, 7)
    assert (seen(reader) == 0).all()
    reader.invalidate(0, LINE)
    assert (seen(reader) == 0).all()
    reader.fence()
    assert (seen(reader) == 7).all()


def test_an_invalidation_of_one_line_leaves_its_neighbour_old(memory):
    writer, reader = IncoherentStore(memory), IncoherentStore(memory)
    seen(reader, 0, 2 * LINE)
    publish(writer, 0, 7)
    publish(writer, LINE, 7)
    reader.invalidate(LINE - 1, 1)
    reader.fence()
    assert seen(reader, LINE - 1, 2).tolist() == [7, 0]


def test_an_invalidation_writes_a_dirty_line_back_first(memory):
    host = IncoherentStore(memory)
    host.write_bytes(0, filled(7))
    host.invalidate(0, LINE)
    host.fence()
    assert (seen(memory) == 7).all()


def test_two_writers_of_one_line_lose_a_write(memory):
    first, second = IncoherentStore(memory), IncoherentStore(memory)
    first.write_bytes(0, filled(1, 32))
    second.write_bytes(32, filled(2, 32))
    for host in (first, second):
        host.flush(0, LINE)
        host.fence()
    assert (seen(memory, 0, 32) == 0).all()


def test_power_loss_takes_what_was_not_written_back(memory):
    host = IncoherentStore(memory)
    publish(host, 0, 1)
    host.write_bytes(LINE, filled(2))
    host.flush(LINE, LINE)
    host.lose_cache()
    host.fence()
    assert (seen(memory) == 1).all()
    assert (seen(memory, LINE) == 0).all()
    assert (seen(host, LINE) == 0).all()


def test_a_host_whose_process_died_still_writes_its_lines_back(memory):
    host = IncoherentStore(memory)
    host.write_bytes(LINE, filled(2))
    host.write_back_everything()
    assert (seen(memory, LINE) == 2).all()


def test_eviction_may_write_back_unasked_but_never_loses_or_tears_a_line(memory):
    host = IncoherentStore(memory, seed=1, evict=0.5, prefetch=0.5)
    early = 0
    for value in range(1, 60):
        host.write_bytes(0, filled(value, 4 * LINE))
        assert (seen(host, 0, 4 * LINE) == value).all()
        lines = seen(memory, 0, 4 * LINE).reshape(4, LINE)
        assert (lines == lines[:, :1]).all()
        early += int((lines == value).any())
    assert early > 0


def test_a_prefetched_line_is_old_though_it_was_never_asked_for(memory):
    writer, reader = IncoherentStore(memory), IncoherentStore(memory, prefetch=1.0)
    seen(reader, 0)
    publish(writer, LINE, 7)
    assert (seen(reader, LINE) == 0).all()


def test_equal_seeds_give_equal_caches(memory):
    def run():
        host = IncoherentStore(memory, seed=5, evict=0.3, prefetch=0.3, flush_early=0.3)
        trail = []
        for value in range(50):
            host.write_bytes(LINE * (value % 8), filled(value))
            host.flush(LINE * (value % 4), LINE)
            trail.append(host.num_dirty_lines)
        return trail

    assert run() == run()


@pytest.mark.parametrize("evict", [0.0, 0.6])
def test_rows_come_back_as_written_and_reach_memory_when_flushed(memory, evict):
    host = IncoherentStore(memory, evict=evict)
    rng = np.random.default_rng(0)
    rows = rng.permutation(32)[:9]
    values = rng.integers(0, 256, (9, 656), dtype=np.uint8)
    assert host.write_rows(rows, values) == 0
    out = np.empty_like(values)
    assert host.read_rows(rows, out) == 0
    assert (out == values).all()
    host.flush(host.rows_offset, 32 * 656)
    host.fence()
    memory.read_rows(rows, out)
    assert (out == values).all()


def test_rows_that_share_a_line_go_stale_together(memory):
    writer, reader = IncoherentStore(memory), IncoherentStore(memory)
    out = np.empty((1, 656), np.uint8)
    reader.read_rows(np.array([0]), out)
    writer.write_rows(np.array([1]), np.full((1, 656), 9, np.uint8))
    writer.flush(writer.rows_offset, 2 * 656)
    writer.fence()
    reader.read_rows(np.array([1]), out)
    shared = LINE - 656 % LINE  # row 1 begins inside the last line of row 0
    assert (out[0, :shared] == 0).all()
    assert (out[0, shared:] == 9).all()


def test_it_claims_no_time_and_refuses_what_lies_outside(memory):
    host = IncoherentStore(memory)
    assert host.label is Label.FUNCTIONAL
    with pytest.raises(RowRangeError, match=r"rows\[1\]=32"):
        host.read_rows(np.array([0, 32]), np.empty((2, 656), np.uint8))
    with pytest.raises(RowRangeError, match="lie outside"):
        host.write_bytes(memory.size_bytes - 8, filled(0))


def byte_of(memory, offset=0):
    out = np.empty(1, np.uint8)
    memory.read_bytes(offset, out)
    return int(out[0])


ONE = np.ones(1, np.uint8)


@pytest.mark.parametrize(
    ("instruction", "before_fence", "stays"), [("clwb", 0, True), ("clflushopt", 0, False), ("clflush", 1, False)]
)
def test_a_flush_does_what_its_instruction_does(memory, instruction, before_fence, stays):
    store = IncoherentStore(memory, flush_by=instruction)
    store.write_bytes(0, ONE)
    store.flush(0, 1)
    assert byte_of(memory) == before_fence
    store.fence()
    assert byte_of(memory) == 1
    memory.write_bytes(0, 2 * ONE)  # another host
    assert byte_of(store) == (1 if stays else 2)


def test_an_invalidation_by_clflush_needs_no_fence(memory):
    for instruction, seen in (("clflushopt", 0), ("clflush", 2)):
        memory.write_bytes(0, np.zeros(1, np.uint8))
        store = IncoherentStore(memory, invalidate_by=instruction)
        byte_of(store)
        memory.write_bytes(0, 2 * ONE)
        store.invalidate(0, 1)
        assert byte_of(store) == seen


def test_streamed_rows_are_in_memory_after_a_fence_without_any_flush():
    memory = MappedStore.anonymous(KvLayout.bf16(), 2, huge_pages=False)
    rows, values = np.array([0]), np.full((1, memory.layout.row_bytes), 7, np.uint8)
    for streams in (False, True):
        memory.write_rows(rows, np.zeros_like(values))
        store, out = IncoherentStore(memory, streams=streams), np.empty_like(values)
        store.write_rows(rows, values)
        store.read_rows(rows, out)
        assert (out == 7).all()
        store.fence()
        memory.read_rows(rows, out)
        assert (out == (7 if streams else 0)).all()


def test_a_cache_of_few_ways_writes_lines_back_by_itself_and_never_holds_more(memory):
    store = IncoherentStore(memory, seed=3, sets=4, ways=2)
    for line in range(16):
        store.write_bytes(64 * line, ONE)
        held = np.flatnonzero(store._held)
        assert np.bincount(held % 4, minlength=4).max() <= 2
    assert store.num_dirty_lines == 8
    assert sum(byte_of(memory, 64 * line) for line in range(16)) == 8
    assert all(byte_of(store, 64 * line) == 1 for line in range(16))
    with pytest.raises(InputError, match="sets=0 must be at least 1"):
        IncoherentStore(memory, sets=0)


def test_a_line_may_be_loaded_that_nobody_asked_for(memory):
    store = IncoherentStore(memory, seed=1, speculate=1.0)
    for _ in range(2000):
        byte_of(store)
    memory.write_bytes(640, ONE)
    assert byte_of(store, 640) == 0  # an old copy, though it was never read


def test_a_torn_line_reaches_memory_in_two_pieces_of_whole_words(memory):
    seen = []

    class Memory(WrapperStore):
        def write_bytes(self, offset, values):
            seen.append((offset, values.size))
            super().write_bytes(offset, values)

    store = IncoherentStore(Memory(memory), seed=5, tear=1.0)
    for _ in range(20):
        store.write_bytes(128, np.full(64, 9, np.uint8))
        store.flush(128, 64)
        store.fence()
    pieces = [sorted(seen[place : place + 2]) for place in range(0, len(seen), 2)]
    assert len(pieces) == 20
    for (first, size), (second, rest) in pieces:
        assert (first, second, size + rest) == (128, 128 + size, 64)
        assert size % 8 == 0
    assert {seen[place][0] == 128 for place in range(0, 40, 2)} == {True, False}  # either half first


def test_many_rows_are_read_as_they_are_one_by_one(memory):
    rows = np.random.default_rng(0).integers(0, memory.num_rows, 50)
    values = np.random.default_rng(1).integers(0, 256, (memory.num_rows, memory.layout.row_bytes), dtype=np.uint8)
    memory.write_rows(np.arange(memory.num_rows), values)
    out = np.empty((50, memory.layout.row_bytes), np.uint8)
    for wrapped in (memory, WrapperStore(memory)):
        store = IncoherentStore(wrapped)
        store.read_rows(rows, out)
        assert (out == values[rows]).all()
        memory.write_rows(np.arange(memory.num_rows), np.zeros_like(values))
        store.read_rows(rows, out)
        assert (out == values[rows]).all()  # from the cache
        memory.write_rows(np.arange(memory.num_rows), values)

"""The contract of a store, held by each store that there is; and stores broken on purpose, which it notices."""

from contextlib import contextmanager

import numpy as np
import pytest

from emulation.conformance.store_tests import StoreTests
from emulation.stores.incoherent import IncoherentStore
from emulation.stores.timed import TimedStore
from emulation.stores.wrapper import WrapperStore
from emulation.timing.clock import VirtualClock, WallClock
from emulation.timing.links.booked import Reservations
from emulation.timing.path import default_path
from emulation.timing.profile import load_profile
from sac_runtime.label import Label
from sac_runtime.memory import mapped
from sac_runtime.memory.gather import TwoStepGather
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.memory.mapping import HUGE_PAGE_BYTES
from sac_runtime.native import Copy


def memory(layout, num_rows, metadata_bytes, **options):
    return MappedStore.anonymous(layout, num_rows, huge_pages=False, metadata_bytes=metadata_bytes, **options)


class Mapped(StoreTests):
    def opened(self, *shape):
        return memory(*shape)


class TestAnonymous(Mapped):
    pass


class TestNarrow(Mapped):
    def opened(self, *shape):
        return memory(*shape, copy=Copy.NARROW)


class TestByTeam(Mapped):
    def opened(self, *shape):
        return memory(*shape, gather_cpus=(0,))


class TestShared(Mapped):
    @pytest.fixture(autouse=True)
    def a_folder(self, tmp_path):
        self.folder = tmp_path

    def opened(self, layout, num_rows, metadata_bytes):
        path = self.folder / f"{layout.name}-{layout.stride_bytes}"
        return MappedStore.shared(path, layout=layout, num_rows=num_rows, metadata_bytes=metadata_bytes)


class TestNuma(Mapped):
    def opened(self, layout, num_rows, metadata_bytes):
        return MappedStore.numa(0, layout, num_rows, huge_pages=False, metadata_bytes=metadata_bytes)


class TestDax(Mapped):
    """A file stands in for the device, which this machine need not have; the tests in VMs have one."""

    @pytest.fixture(autouse=True)
    def a_device(self, tmp_path, monkeypatch):
        monkeypatch.setattr(mapped, "dax_size_bytes", lambda name: HUGE_PAGE_BYTES)
        self.folder = tmp_path

    def opened(self, layout, num_rows, metadata_bytes):
        path = self.folder / f"dax-{layout.name}-{layout.stride_bytes}"
        path.write_bytes(bytes(HUGE_PAGE_BYTES))
        return MappedStore.dax(path, layout=layout, metadata_bytes=metadata_bytes)


class TestWrapper(StoreTests):
    def opened(self, *shape):
        return WrapperStore(memory(*shape))


class TestTimed(StoreTests):
    def opened(self, *shape):
        return TimedStore(memory(*shape), default_path(load_profile("cxl-switched-400")), VirtualClock())


class TestTimedAmongOthers(StoreTests):
    def opened(self, *shape):
        path = default_path(load_profile("cxl-switched-400"))
        return TimedStore(memory(*shape), path, VirtualClock(), Reservations())


class TestInjected(StoreTests):
    def opened(self, *shape):
        return TimedStore(memory(*shape), default_path(load_profile("cxl-switched-400")), WallClock())


class TestIncoherent(StoreTests):
    """One host alone sees its own cache, so the whole contract holds but for time; a closed one still has what it cached."""

    claims_time = False
    refuses_after_close = False

    def opened(self, *shape):
        return IncoherentStore(memory(*shape), seed=3, evict=0.3, prefetch=0.3, flush_early=0.3)


class TestTimedIncoherent(StoreTests):
    refuses_after_close = False

    def opened(self, *shape):
        return TimedStore(IncoherentStore(memory(*shape)), default_path(load_profile("rdma-100g")), VirtualClock())


class DropsTheLastRow(WrapperStore):
    def write_rows(self, rows, values):
        return super().write_rows(rows[:-1], values[:-1])


class ReadsTheNextRow(WrapperStore):
    def read_rows(self, rows, out):
        return super().read_rows((rows + 1) % self.num_rows, out)


class Clamps(WrapperStore):
    def read_rows(self, rows, out):
        return super().read_rows(np.clip(rows, 0, self.num_rows - 1), out)


class FirstWriteWins(WrapperStore):
    def write_rows(self, rows, values):
        _, first = np.unique(rows, return_index=True)
        return super().write_rows(rows[first], values[first])


class WritesPadding(WrapperStore):
    def write_rows(self, rows, values):
        for row in rows.tolist():
            spot = self.rows_offset + row * self.layout.stride_bytes
            self.write_bytes(spot, np.ones(self.layout.stride_bytes, np.uint8))
        return super().write_rows(rows, values)


class ReadsHalfBeforeItRefuses(WrapperStore):
    def read_rows(self, rows, out):
        half = len(rows) // 2
        return super().read_rows(rows[:half], out[:half]) + super().read_rows(rows[half:], out[half:])


class DropsDirtyLines(IncoherentStore):
    def invalidate(self, offset, size_bytes):
        self._dirty[self._lines(offset, size_bytes)] = False
        super().invalidate(offset, size_bytes)


class BytesOffByOne(WrapperStore):
    def read_bytes(self, offset, out):
        super().read_bytes(max(0, offset - 1), out)


class ClaimsTimeUnsaid(WrapperStore):
    def read_rows(self, rows, out):
        super().read_rows(rows, out)
        return 0


class Mislabelled(IncoherentStore):
    label = Label.HARDWARE


class KeepsTokensAfterAFailure(WrapperStore):
    def slot_gather(self, buffer, slots):
        buffer.forget = lambda: None
        return TwoStepGather(self.store.read_rows_into_slots, buffer, slots)


class ShufflesVictims(WrapperStore):
    def slot_gather(self, buffer, slots):
        def read(rows, buffer, slots):
            return self.store.read_rows_into_slots(rows, buffer, slots[::-1].copy())

        return TwoStepGather(read, buffer, slots)


class StaysOpen(WrapperStore):
    def close(self):
        pass


NOTICED_BY = {
    DropsTheLastRow: "test_rows_come_back_in_any_order_and_more_than_once",
    ReadsTheNextRow: "test_rows_come_back_in_any_order_and_more_than_once",
    Clamps: "test_a_row_outside_is_refused_and_nothing_moves",
    FirstWriteWins: "test_of_equal_row_numbers_the_last_write_wins",
    WritesPadding: "test_a_row_lies_at_its_offset_and_padding_is_never_written",
    ReadsHalfBeforeItRefuses: "test_a_row_outside_is_refused_and_nothing_moves",
    DropsDirtyLines: "test_flushes_and_invalidations_lose_nothing_whatever_their_bounds",
    BytesOffByOne: "test_bytes_at_any_offset_and_length_come_back",
    ClaimsTimeUnsaid: "test_its_label_says_whether_it_claims_a_time",
    Mislabelled: "test_its_label_says_whether_it_claims_a_time",
    KeepsTokensAfterAFailure: "test_a_fetch_that_fails_leaves_no_row_taken_for_present",
    ShufflesVictims: "test_a_fetch_brings_the_misses_of_a_plan_into_their_slots",
    StaysOpen: "test_it_is_a_context_manager_and_may_be_closed_again",
}


def failures(suite):
    """Names of the tests of a suite that fail, each parameter tried."""
    failed = []
    for name in [name for name in dir(suite) if name.startswith("test_")]:
        test = getattr(suite, name)
        marks = getattr(test, "pytestmark", [])
        for arguments in [(value,) for mark in marks for value in mark.args[1]] or [()]:
            try:
                test(*arguments)
            except (Exception, pytest.fail.Exception):  # noqa: BLE001 - a broken store may raise anything
                failed.append(name)
    return failed


def suite_of(make, **attributes):
    def opened(self, *shape):
        @contextmanager
        def closing():
            store = make(memory(*shape))
            try:
                yield store
            finally:
                store.close()

        return closing()

    return type("Suite", (StoreTests,), {"opened": opened, **attributes})()


@pytest.mark.parametrize("mutant", NOTICED_BY, ids=lambda mutant: mutant.__name__)
def test_a_store_that_is_broken_on_purpose_is_noticed(mutant):
    of_a_cache = issubclass(mutant, IncoherentStore)
    suite = suite_of(mutant, claims_time=not of_a_cache, refuses_after_close=not of_a_cache)
    assert NOTICED_BY[mutant] in failures(suite)


def test_what_is_not_broken_passes_the_same_way():
    assert failures(suite_of(WrapperStore)) == []
    assert failures(suite_of(IncoherentStore, claims_time=False, refuses_after_close=False)) == []


def test_a_suite_says_that_a_store_is_to_be_given():
    with pytest.raises(NotImplementedError, match=r"StoreTests: opened\(\) is to be written"):
        StoreTests().test_it_tells_its_geometry()

"""TimedStore: real bytes, modelled time."""

import subprocess
import sys
import time

import numpy as np
import pytest

from emulation.stores.incoherent import IncoherentStore
from emulation.stores.timed import TimedStore
from emulation.stores.wrapper import WrapperStore
from emulation.timing.clock import VirtualClock, WallClock
from emulation.timing.links.booked import Reservations
from emulation.timing.path import Route, Transfer, make_path
from emulation.timing.profile import load_profile
from sac_runtime.errors import RowRangeError
from sac_runtime.fetch.hot_buffer import HotBuffer
from sac_runtime.label import Label
from sac_runtime.memory.gather import slot_gather
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import KvLayout
from sac_runtime.rows.placement import LayerRows

LAYOUT = KvLayout.fp8()
NUM_ROWS = 4096


@pytest.fixture
def store():
    with MappedStore.anonymous(LAYOUT, NUM_ROWS, huge_pages=False, metadata_bytes=4096) as mapped:
        values = np.random.default_rng(1).integers(0, 256, (NUM_ROWS, LAYOUT.row_bytes), np.uint8)
        mapped.write_rows(np.arange(NUM_ROWS), values)
        yield mapped


def path(name="cxl-switched-400", reader="reader0", device="device0"):
    return make_path(load_profile(name), reader, [Route(f"{reader}.adapter", None, device)])


def read(timed, rows):
    out = np.empty((len(rows), LAYOUT.row_bytes), np.uint8)
    return timed.read_rows(np.asarray(rows, np.int64), out), out


def test_the_bytes_are_the_store_s_and_the_time_is_the_path_s(store):
    timed, rows = TimedStore(store, path(), VirtualClock()), np.random.default_rng(2).integers(0, NUM_ROWS, 500)
    elapsed_ns, out = read(timed, rows)
    assert np.array_equal(out, read(store, rows)[1])
    assert elapsed_ns == timed.clock.now_ns() == path().idle_ns(Transfer(500, 500 * 704))
    assert timed.label is Label.MODELLED


def test_writes_take_the_write_side_and_land(store):
    timed, values = TimedStore(store, path(), VirtualClock()), np.full((3, LAYOUT.row_bytes), 9, np.uint8)
    rows = np.array([5, 1, 7])
    assert timed.write_rows(rows, values) == path().idle_ns(Transfer(3, 3 * 704, write=True))
    assert np.array_equal(read(store, rows)[1], values)


@pytest.mark.parametrize("below", ["native", "staged", "timed"])
def test_a_fetch_takes_the_path_s_time_for_its_misses_however_the_store_below_gathers(store, below):
    inner = {"native": store, "staged": WrapperStore(store), "timed": TimedStore(store, path(), VirtualClock())}[below]
    timed, buffer, slots = TimedStore(inner, path(), VirtualClock()), HotBuffer(4, 3), np.zeros((5, 656), np.uint8)
    gather = slot_gather(timed, buffer, slots)
    plan, elapsed_ns = gather.fetch(np.array([9, 8, 7]), 20, LayerRows(0, NUM_ROWS))
    assert elapsed_ns == timed.clock.now_ns() == path().idle_ns(Transfer(3, 3 * 704))
    assert np.array_equal(slots[plan.slots], read(store, [9, 8, 7])[1])
    assert gather.fetch(np.array([8, 9]), 21, LayerRows(0, NUM_ROWS))[1] == 0, "hits take no time"
    assert timed.clock.now_ns() == elapsed_ns


def test_a_fetch_on_the_wall_clock_stalls_from_the_gather_on_and_planning_is_not_hidden_in_it(store):
    class SlowPlanner(HotBuffer):
        def plan_by(self, *arguments):
            planned = super().plan_by(*arguments)
            time.sleep(0.005)
            return planned

    timed = TimedStore(WrapperStore(store), path("rdma-100g"), WallClock())
    gather = slot_gather(timed, SlowPlanner(4, 3), np.zeros((5, 656), np.uint8))
    begin_ns = time.perf_counter_ns()
    _, elapsed_ns = gather.fetch(np.array([9, 8, 7]), 20, LayerRows(0, NUM_ROWS))
    assert time.perf_counter_ns() - begin_ns >= 5_000_000 + path("rdma-100g").idle_ns(Transfer(3, 3 * 704)) - 20_000
    assert elapsed_ns < 5_000_000


def test_bytes_are_charged_by_the_lines_they_touch(store):
    timed, out = TimedStore(store, path(), VirtualClock()), np.empty(2, np.uint8)
    timed.read_bytes(62, out)
    one_line_ns = timed.clock.now_ns()
    timed.read_bytes(63, out)  # its second byte lies on the next line
    assert one_line_ns == path().idle_ns(Transfer(1, 64))
    assert timed.clock.now_ns() - one_line_ns == path().idle_ns(Transfer(1, 128))
    timed.read_bytes(0, out[:0])
    assert timed.clock.now_ns() - one_line_ns == path().idle_ns(Transfer(1, 128))


def test_a_fence_waits_for_the_flushes_before_it_once(store):
    timed = TimedStore(store, path(), VirtualClock())
    timed.fence()
    timed.invalidate(0, 4096)
    assert timed.clock.now_ns() == 0
    timed.flush(0, 4096)
    timed.fence()
    timed.fence()
    assert timed.clock.now_ns() == load_profile("cxl-switched-400").write_latency_ns


def test_a_read_that_is_refused_takes_no_time(store):
    timed = TimedStore(store, path(), VirtualClock())
    with pytest.raises(RowRangeError):
        read(timed, [NUM_ROWS])
    assert timed.clock.now_ns() == 0


def test_same_reads_same_times(store):
    def times():
        timed, rng = TimedStore(store, path(), VirtualClock(), Reservations()), np.random.default_rng(3)
        return [read(timed, rng.integers(0, NUM_ROWS, n))[0] for n in (1, 2048, 17, 400, 2048)]

    assert times() == times()


def test_links_that_nobody_else_uses_change_nothing(store):
    alone = TimedStore(store, path(), VirtualClock())
    booked = TimedStore(store, path(), VirtualClock(), Reservations())
    for n in (1, 100, 2048, 3):
        rows = np.arange(n)
        assert abs(read(alone, rows)[0] - read(booked, rows)[0]) <= 1


def test_two_hosts_on_one_device_wait_for_one_another_and_two_on_two_do_not(store):
    links = Reservations()
    first, second, apart = (
        TimedStore(store, path("gpu-cxl-beluga", f"gpu{i}", device), VirtualClock(), links)
        for i, device in enumerate(["d0", "d0", "d1"])
    )
    rows = np.arange(2048)
    alone_ns, waited_ns, apart_ns = (read(timed, rows)[0] for timed in (first, second, apart))
    assert apart_ns == alone_ns
    device_ns = 2048 * 704 / 22.5  # the device is this path's narrowest link
    assert waited_ns - alone_ns == pytest.approx(device_ns, abs=1)


def test_a_noisy_neighbour_raises_latency_along_the_curve(store):
    links, rows = Reservations(), np.arange(2048)
    victim = TimedStore(store, path(), VirtualClock(), links)
    bully = TimedStore(store, path("gpu-cxl-beluga", "gpu0"), VirtualClock(), links)
    for _ in range(100):
        read(bully, rows)
    victim.clock.wait_until(bully.clock.now_ns())
    alone_ns = path().idle_ns(Transfer(64, 64 * 704))
    assert read(victim, rows[:64])[0] > 3 * alone_ns


def test_the_wall_clock_stalls_for_the_rest_and_counts_what_it_cannot_honour(store):
    clock = WallClock()
    timed = TimedStore(store, path("rdma-100g"), clock)
    elapsed_ns, _ = read(timed, np.arange(100))
    assert elapsed_ns >= path("rdma-100g").idle_ns(Transfer(100, 100 * 704)) - clock.overshoot_ns
    assert timed.label is Label.INJECTED
    before = clock.error.num_late
    read(TimedStore(store, path("dram-pond-intel"), clock), np.array([1]))  # 0.1 us: no Python call is as fast
    assert clock.error.num_late == before + 1


def test_a_shared_wall_clock_read_pays_its_request_cost_once(store):
    timed = TimedStore(store, path("sac-gpu-rdma"), WallClock(), Reservations())
    rows = np.arange(2048)
    assert read(timed, rows)[0] >= path("sac-gpu-rdma").idle_ns(Transfer(2048, 2048 * 704)) - timed.clock.overshoot_ns
    assert timed._links.booked_ns("reader0.adapter") == pytest.approx(2198 + 2048 * 500, abs=10)


def test_wrappers_go_around_one_another_in_any_order(store):
    rows = np.array([3, 99])
    for wrapped in (
        TimedStore(IncoherentStore(store), path(), VirtualClock()),
        TimedStore(TimedStore(store, path(), VirtualClock()), path(), VirtualClock()),
    ):
        elapsed_ns, out = read(wrapped, rows)
        assert elapsed_ns == path().idle_ns(Transfer(2, 2 * 704))
        assert np.array_equal(out, read(store, rows)[1])
    assert np.array_equal(read(IncoherentStore(TimedStore(store, path(), VirtualClock())), rows)[1], out)


READ_TEN_TIMES = """
import sys, time
from pathlib import Path
import numpy as np
from emulation.stores.timed import TimedStore
from emulation.timing.clock import WallClock
from emulation.timing.path import default_path
from emulation.timing.profile import load_profile
from emulation.timing.links.booked import Reservations
from sac_runtime.rows.layout import KvLayout
from sac_runtime.memory.mapped import MappedStore
layout, clock = KvLayout.fp8(), WallClock()
with MappedStore.anonymous(layout, 2048, huge_pages=False) as store, Reservations(Path(sys.argv[1])) as links:
    timed = TimedStore(store, default_path(load_profile("rdma-100g"), reader=sys.argv[2]), clock, links)
    out = np.empty((2048, layout.row_bytes), np.uint8)
    print(clock.now_ns())
    for _ in range(10):
        timed.read_rows(np.arange(2048), out)
    print(clock.now_ns())
"""


def test_two_processes_on_one_adapter_take_no_less_than_it_needs_for_both(tmp_path):
    command = [sys.executable, "-c", READ_TEN_TIMES, str(tmp_path / "links")]
    running = [subprocess.Popen([*command, f"p{i}"], stdout=subprocess.PIPE, text=True) for i in range(2)]
    spans = [tuple(map(int, process.communicate(timeout=60)[0].split())) for process in running]
    with Reservations(tmp_path / "links") as links:
        booked_ns = links.booked_ns("host0.adapter")
    assert booked_ns == pytest.approx(2 * 10 * 2048 * 500, rel=0.001)
    assert max(end for _, end in spans) - min(begin for begin, _ in spans) >= 0.99 * booked_ns

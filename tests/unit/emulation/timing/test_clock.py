"""Both clocks. What the injector achieves on an idle core is scripts/bench/timing.py's business; here is its bookkeeping."""

import pytest

from emulation.timing.clock import InjectorError, VirtualClock, WallClock
from sac_runtime.label import Label


def test_a_virtual_clock_moves_only_when_told_and_never_back():
    clock = VirtualClock()
    assert clock.label is Label.MODELLED
    assert clock.stall(0, 250) == 250
    clock.wait_until(100)
    assert clock.now_ns() == 250
    assert clock.stall(200, 20) == 50  # asked for 220, but the clock stood at 250 already


def test_a_wall_clock_never_comes_back_before_its_deadline_less_its_overshoot():
    clock = WallClock()
    assert clock.label is Label.INJECTED
    for _ in range(50):
        start_ns = clock.now_ns()
        achieved_ns = clock.stall(start_ns, 50_000)
        assert achieved_ns >= 50_000 - clock.overshoot_ns
    assert clock.error.summary().num_honoured == 50


def test_a_stall_that_was_over_before_it_began_is_counted_and_not_in_the_error():
    clock = WallClock()
    clock.stall(clock.now_ns() - 1_000_000, 5_000)
    summary = clock.error.summary()
    assert (summary.num_honoured, summary.num_late) == (0, 1)
    assert summary.late_ns >= 995_000


def test_error_is_relative_to_what_was_requested():
    error = InjectorError()
    for achieved_ns in (1000, 1010, 990, 1100):
        error.add(1000, achieved_ns, late=False)
    summary = error.summary()
    assert summary.median_error == pytest.approx(0.01)
    assert summary.p99_error == pytest.approx(0.0973)

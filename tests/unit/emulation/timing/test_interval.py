"""Intervals: what widens them, and when an order is decided."""

import pytest

from emulation.timing.disagreement import other_readings
from emulation.timing.interval import Interval, Order, Residual, interval_of
from emulation.timing.profile import load_profile


def test_an_order_is_decided_only_where_intervals_do_not_overlap():
    middle = Interval(9.0, 10.0, 11.0)
    assert Interval(11.5, 12.0, 13.0).order(middle) is Order.AHEAD
    assert Interval(7.0, 8.0, 8.5).order(middle) is Order.BEHIND
    assert Interval(10.5, 12.0, 13.0).order(middle) is Order.UNDECIDED
    assert Interval(11.0, 12.0, 13.0).order(middle) is Order.UNDECIDED  # they touch
    assert Order.UNDECIDED == "not decided by what is known"


def test_a_model_that_read_20_percent_high_stands_for_less_than_it_says():
    residual = Residual.of([0.2, -0.1])
    interval = interval_of(120.0, residual=residual)
    assert (interval.low, interval.value, interval.high) == pytest.approx((100.0, 120.0, 120 / 0.9))
    assert residual.points == 2


def test_an_interval_is_never_narrower_than_the_reading_of_plots_and_holds_its_value():
    residual = Residual.of([0.001])
    interval = interval_of(1.0, residual=residual)
    assert interval.low <= 1 / 1.03
    assert interval.high >= 1 / 0.97
    one_sided = interval_of(1.0, residual=Residual.of([0.3, 0.4]))
    assert one_sided.low < one_sided.value < one_sided.high


def test_other_inputs_widen_an_interval_to_both_sides():
    assert interval_of(2.0, [1.0, 5.0]) == Interval(1.0, 2.0, 5.0)
    assert interval_of(2.0) == Interval(2.0, 2.0, 2.0)


def test_a_figure_s_inverse_has_the_inverse_residual():
    residual = Residual.of([0.25, -0.2]).inverse()
    assert (residual.least, residual.most) == pytest.approx((-0.2, 0.25))


def test_readings_of_one_subject_are_those_that_disagree_about_it():
    names = {profile.name for profile in other_readings(load_profile("sac-gpu-cxl"))}
    assert names == {"sac-gpu-cxl-flat", "gpu-cxl-beluga", *(f"cxl-switched-{ns}@gpu" for ns in (220, 400, 750))}
    assert [profile.name for profile in other_readings(load_profile("rdma-400g@gpu"))] == ["rdma-400g-slow@gpu"]
    assert {profile.name for profile in other_readings(load_profile("cxl-switched-220"))} == {
        "cxl-switched-400",
        "cxl-switched-750",
    }
    assert other_readings(load_profile("cxl-direct-140")) == []  # four cards, not four readings of one

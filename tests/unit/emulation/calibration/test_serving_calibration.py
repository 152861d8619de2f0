"""The serving model beside the paper's figures; the bounds are those that the project set itself."""

from dataclasses import replace

import pytest

from emulation.calibration.readings import summary
from emulation.calibration.serving import fig4_points, headline_points, serving_points
from emulation.serving.spec import EngineCosts


@pytest.fixture(scope="module")
def fig10():
    return serving_points(2)


def test_figure_10_is_met_within_5_percent_in_the_median_and_15_at_worst(fig10):
    middle, worst = summary(fig10)
    assert len(fig10) == 36
    assert middle <= 0.05
    assert worst <= 0.15


def test_figure_9_is_met_within_8_percent_in_the_median():
    points = serving_points(1)
    assert len(points) == 36
    assert summary(points)[0] <= 0.08


def test_headline_ratios_are_met_within_8_percent(fig10):
    points = headline_points(fig10)
    assert [point.reading for point in points] == [2.1, 9.7, 1.8, 0.91]
    assert summary(points)[1] <= 0.08


def test_footprints_of_figure_4_are_met_within_5_percent():
    assert summary(fig4_points())[1] <= 0.05


@pytest.mark.parametrize(
    "name",
    ["step_base_ns", "admission_ns", "prefetch_ops_per_entry", "prefetch_slowdown"],
)
def test_a_parameter_set_wrong_is_noticed(name):
    wrong = replace(EngineCosts(), **{name: getattr(EngineCosts(), name) * (1.25 if "slowdown" not in name else 0.5)})
    middle, worst = summary(serving_points(2, wrong))
    assert middle > 0.05 or worst > 0.15

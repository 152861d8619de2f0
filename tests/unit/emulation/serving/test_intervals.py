"""Intervals of serving figures: low, value, high over what is known, and what they say they cover."""

from dataclasses import replace

import pytest

from emulation.calibration.readings import Point
from emulation.calibration.residuals import residuals_of, shipped_residuals, write_residuals
from emulation.report.serving import draw_records
from emulation.serving.intervals import METRICS, Residuals, hit_rate_interval, variants
from emulation.serving.sweep import MOST_VARIANTS, Arrivals, SweepAxes, run_scenario, scenarios
from emulation.serving.testbed import cluster_on
from emulation.timing.interval import Interval, Residual
from emulation.timing.misses import BufferLaw

AXES = SweepAxes(tiers=("hbm", "dram", "cxl", "rdma"), contexts=(32768,), outputs=(256,), concurrencies=(16,))


@pytest.fixture(scope="module")
def records():
    asked = scenarios(AXES, Arrivals(num_prompts=32), cluster_on())
    return [run_scenario(one, residuals=shipped_residuals(), most_variants=MOST_VARIANTS)[0] for one in asked]


def test_each_figure_of_a_record_has_an_interval_that_holds_it(records):
    for record in records:
        assert set(record.intervals) == set(METRICS)
        for name, interval in record.intervals.items():
            assert interval.value == getattr(record, name)
            assert interval.low <= interval.value <= interval.high


def test_latencies_and_throughput_are_never_claimed_to_better_than_a_plot_is_read(records):
    for record in records:
        for name in ("output_throughput", "mean_ttft_ms", "p99_itl_ms"):
            interval = record.intervals[name]
            assert interval.high / interval.low > 1.05


def test_a_record_says_what_its_intervals_cover(records):
    hbm, dram, cxl, rdma = records
    assert hbm.interval_from[0].startswith("errors of the fit at ")
    assert len(dram.interval_from) == len(rdma.interval_from) == 1
    assert "profile gpu-cxl-beluga" in cxl.interval_from


def test_a_profile_that_disagrees_widens_the_interval():
    scenario = next(scenarios(replace(AXES, tiers=("cxl",)), Arrivals(num_prompts=32), cluster_on()))
    narrow, wide = (
        run_scenario(scenario, residuals=Residuals(), most_variants=most)[0].intervals["mean_tpot_ms"]
        for most in (31, 32)
    )
    assert narrow.low == narrow.high
    assert wide.low < wide.high


def test_what_was_left_out_of_an_interval_is_said():
    scenario = next(scenarios(replace(AXES, tiers=("cxl",)), Arrivals(num_prompts=32), cluster_on()))
    record, _ = run_scenario(scenario, residuals=Residuals(), most_variants=31)
    assert "left out, for 32 requests: profile gpu-cxl-beluga" in record.interval_from


def test_on_hardware_that_nothing_was_fitted_on_the_scaling_is_in_doubt_too():
    assert variants(replace(cluster_on(), tier="dram")) == []
    names = [one.what for one in variants(replace(cluster_on(gpu="h100", model="glm-5"), tier="dram"))]
    assert names == [
        "steps as slow as on the fitted GPU",
        "compute as of the fitted model",
        "misses of GLM-5.1's buffers",
    ]


def test_misses_of_a_model_without_any_known_are_those_of_the_published_buffers_too():
    spec = replace(cluster_on(model="kimi-like"), tier="cxl")
    misses = {slots: variants(replace(spec, hot_buffer=slots))[-1].spec.measured_misses for slots in (2048, 4096, 8192)}
    assert misses == pytest.approx({2048: 0.300 * 2048, 4096: 0.134 * 2048, 8192: 0.067 * 2048}, rel=0.07)
    assert variants(replace(spec, measured_misses=5.0))[-1].what != "misses of GLM-5.1's buffers"


def test_a_hit_rate_is_as_uncertain_as_the_law_of_misses_and_a_measured_one_is_not():
    interval = hit_rate_interval(0.98, cluster_on())
    law = BufferLaw.for_context(16384).misses_per_step(6144) / 33  # the worst of the four
    assert interval.low == pytest.approx(1 - 0.02 / law)
    assert interval.low < 0.98 < interval.high < 1
    measured = hit_rate_interval(0.98, replace(cluster_on(), measured_misses=40.0))
    assert (measured.low, measured.high) == pytest.approx((0.98, 0.98))
    assert hit_rate_interval(1.0, cluster_on()) == Interval(1.0, 1.0, 1.0)


def test_a_tier_with_few_readings_of_its_own_takes_the_widest_of_all():
    residuals = Residuals(
        {
            ("dram", "ttft_s"): Residual(-0.1, 0.2, 6),
            ("cxl", "ttft_s"): Residual(-0.3, 0.1, 6),
            ("rdma", "ttft_s"): Residual(0.0, 0.0, 5),
        }
    )
    for few in ("hbm", "rdma"):
        assert residuals.of(few, "mean_ttft_ms") == Residual(-0.3, 0.2, 6)
    assert residuals.of("cxl", "mean_ttft_ms") == Residual(-0.3, 0.1, 6)
    assert residuals.of("cxl", "hit_rate") == Residual(0.0, 0.0, 0)


def test_a_99th_percentile_takes_the_readings_of_its_own_kind_as_well():
    residuals = Residuals(
        {("dram", "tbt_ms"): Residual(-0.03, 0.03, 6), ("dram", "p99_tbt_ms"): Residual(-0.2, 0.1, 6)}
    )
    assert residuals.of("dram", "p99_itl_ms") == Residual(-0.2, 0.1, 6)
    assert residuals.of("dram", "mean_itl_ms") == Residual(-0.03, 0.03, 6)


def test_residuals_are_the_least_and_the_most_error_of_each_kind(tmp_path):
    points = [
        Point("cxl 16384 tbt_ms", 10.0, 12.0),
        Point("cxl 32768 tbt_ms", 10.0, 9.0),
        Point("dram 16384 tbt_ms", 1.0, 1.0),
    ]
    found = residuals_of(points)
    assert found[("cxl", "tbt_ms")].points == 2
    assert (found[("cxl", "tbt_ms")].least, found[("cxl", "tbt_ms")].most) == pytest.approx((-0.1, 0.2))
    assert found[("dram", "tbt_ms")] == Residual(-0.03, 0.03, 1)
    write_residuals(found, tmp_path / "residuals.csv")
    assert "cxl,tbt_ms,-0.1000,0.2000,2\n" in (tmp_path / "residuals.csv").read_text()


def test_pictures_of_throughput_have_bands(tmp_path):
    asked = scenarios(replace(AXES, tiers=("cxl",), contexts=(16384, 32768)), Arrivals(num_prompts=8), cluster_on())
    made = [run_scenario(one, residuals=shipped_residuals()) for one in asked]
    records, outcomes = zip(*made, strict=True)
    draw_records(tmp_path, records, [outcome.recorder.latency_cdf() for outcome in outcomes])
    assert "FillBetweenPolyCollection" in (tmp_path / "throughput_by_context.svg").read_text()

"""Goodput: what keeps its bounds is counted, what does not is not, and the interval asks how sure that is."""

import pytest

from emulation.calibration.residuals import shipped_residuals
from emulation.errors import InputError
from emulation.report.serving import records_table
from emulation.report.tables import print_table
from emulation.serving.slo import GoodCounter, Slo, widened
from emulation.serving.sweep import Arrivals, SweepAxes, run_scenario, scenarios
from emulation.serving.testbed import cluster_on
from emulation.timing.interval import Interval, Residual

AXES = SweepAxes(tiers=("cxl",), contexts=(32768,), outputs=(128,), concurrencies=(16,))
NS = 1e6  # per ms


def record_with(**bounds):
    (scenario,) = scenarios(AXES, Arrivals(64, slo=Slo(**bounds)), cluster_on())
    return run_scenario(scenario, residuals=shipped_residuals(), most_variants=64)


def test_a_bound_is_kept_at_it_and_broken_above_it():
    slo = Slo(ttft_ms=100, tbt_ms=10)
    assert slo.met(100 * NS, 10 * NS)
    assert not slo.met(100 * NS + 1, 10 * NS)
    assert not slo.met(100 * NS, 10 * NS + 1)
    assert Slo(tbt_ms=10).met(1e15, 0.0)
    assert not Slo()


def test_goodput_is_the_share_of_requests_that_keep_the_bounds():
    _, outcome = record_with()
    ttft_ms = sorted(value / NS for value in outcome.recorder.ttft_ns)
    bound = ttft_ms[40]
    record, _ = record_with(ttft_ms=bound)
    kept = sum(value <= bound for value in ttft_ms)
    assert 40 < kept < 64
    assert record.goodput == pytest.approx(record.request_throughput * kept / 64)
    assert (record.slo_ttft_ms, record.slo_tbt_ms) == (bound, None)


def test_bounds_that_all_keep_give_the_throughput_and_bounds_that_none_keeps_give_nothing():
    record, _ = record_with(ttft_ms=1e9, tbt_ms=1e9)
    assert record.goodput == record.request_throughput
    known, throughput = record.intervals["goodput"], record.intervals["request_throughput"]
    assert (known.low, known.high) == pytest.approx((throughput.low, throughput.high))
    record, _ = record_with(tbt_ms=0.001)
    assert record.goodput == 0.0


def test_without_bounds_there_is_no_goodput():
    record, _ = record_with()
    assert record.goodput is None
    assert "goodput" not in record.intervals


def test_the_interval_asks_how_many_keep_the_bounds_if_latencies_are_as_far_off_as_the_fit():
    counter = GoodCounter(Slo(ttft_ms=100), Residual(-0.1, 0.2, 5), Residual(0.0, 0.0, 0))
    for ttft_ms in (80, 95, 110, 130):
        counter.add(ttft_ms * NS, 0.0)
    # 10% too low: 95 stands for 106; 20% too high: 110 stands for 92
    assert counter.rate(2.0) == Interval(0.5, 1.0, 1.5)
    assert widened(Interval(1, 2, 3), [0.5, None], Interval(0.9, 1.0, 1.1)) == Interval(0.5, 2, pytest.approx(3.3))


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf")])
def test_a_bound_that_is_none_is_refused(bad):
    with pytest.raises(InputError, match=r"slo: tbt_ms=.* must be a number of ms above 0"):
        Slo(tbt_ms=bad)


def test_a_table_shows_goodput_with_its_bounds(capsys):
    record, _ = record_with(ttft_ms=5000, tbt_ms=60)
    print_table(records_table([record]))
    words = " ".join(capsys.readouterr().out.split())
    assert (
        "goodput: requests per second that take at most 5,000 ms to the first token and 60.0 ms per later token"
        in words
    )

"""The comparison's points: each is where it says, seen from both sides."""

import pytest

from emulation.calibration.residuals import shipped_residuals
from emulation.report.comparison import comparison_record, verdict
from emulation.serving.cluster import simulate
from emulation.serving.compare import Setting, break_even_steps, compare, pool_profile
from emulation.serving.shipped import shipped_names
from emulation.serving.spec import ClusterSpec
from emulation.serving.workload import ClosedLoop
from emulation.timing.interval import Order
from emulation.timing.misses import BufferLaw
from emulation.timing.profile import load_profile
from sac_runtime.label import Label

SETTING = Setting(ClusterSpec("cxl"), 131072, residuals=shipped_residuals())


@pytest.fixture(scope="module")
def comparison():
    return compare(SETTING, (8, 24, 32, 64))


def test_hbm_only_wins_before_the_crossover_and_cxl_from_there_on(comparison):
    assert comparison.hbm_crossover == 24
    for concurrency, ahead in ((8, False), (24, True)):
        assert (SETTING.throughput("cxl", concurrency) > SETTING.throughput("hbm", concurrency)) is ahead


def test_break_even_is_the_first_step_past_a_full_prefix():
    steps, misses = break_even_steps(ClusterSpec("cxl"), 131072), BufferLaw.for_context(131072)
    assert misses.total_misses(6144, steps) > 131072 >= misses.total_misses(6144, steps - 1)
    assert steps == pytest.approx(131072 / misses.misses_per_step(6144), rel=0.05)


def test_a_buffer_that_holds_the_context_never_breaks_even():
    assert break_even_steps(ClusterSpec("cxl"), 6000) is None


def test_measured_misses_break_even_at_their_own_pace():
    assert break_even_steps(ClusterSpec("cxl", measured_misses=100.0), 131072) == 131072 // 100 + 1


def test_every_flip_is_one_seen_from_both_sides(comparison):
    found = [flip for flip in comparison.tipping_points if flip.at is not None]
    assert {flip.rival for flip in found} == {"rdma", "hbm"}
    for flip in found:
        rival = SETTING.throughput(flip.rival)
        for factor, ahead in ((0.97, flip.ahead_at_low), (1.03, flip.ahead_at_high)):
            value = flip.at * factor
            profile = pool_profile(value) if flip.quantity == "latency_ns" else pool_profile(flip.latency_ns, value)
            assert (SETTING.throughput("cxl", profile=profile) > rival) is ahead


def test_more_latency_or_less_bandwidth_never_helps(comparison):
    by_place = {(point.latency_ns, point.device_bytes_per_ns): point.ratios["rdma"] for point in comparison.grid}
    latencies, rates = (sorted({place[axis] for place in by_place}) for axis in (0, 1))
    for rate in rates:
        ratios = [by_place[latency, rate] for latency in latencies]
        assert ratios == sorted(ratios, reverse=True)
    for latency in latencies:
        ratios = [by_place[latency, rate] for rate in rates]
        assert ratios == sorted(ratios)


def test_the_testbeds_pool_has_the_latency_that_its_fit_gave():
    fitted = load_profile("sac-gpu-cxl")
    added_ns = fitted.read_latency_ns - load_profile("sac-gpu-dram").read_latency_ns
    assert pool_profile(added_ns) == fitted


def test_the_verdict_names_ratios_crossover_break_even_range_and_flips(comparison):
    words = " ".join(verdict(comparison))
    for part in (
        "tokens of RDMA prefetch",
        "from concurrency 24 on",
        "n*: after",
        "Over 140 to 750 ns",
        "behind",
        "RDMA prefetch with other figures of its own: ahead for sac",
        "not decided by what is known for",
    ):
        assert part in words
    record = comparison_record(comparison)
    assert record.label is Label.MODELLED
    assert record.hbm_crossover_concurrency == 24


def test_an_order_is_said_only_where_intervals_do_not_overlap(comparison):
    record = comparison_record(comparison)
    for one in record.orders:
        if one.order is Order.AHEAD:
            assert one.cxl.low > one.other.high
        elif one.order is Order.BEHIND:
            assert one.cxl.high < one.other.low
        else:
            assert one.cxl.low <= one.other.high
            assert one.cxl.high >= one.other.low
    assert comparison.hbm_decided is None or comparison.hbm_decided >= comparison.hbm_crossover


def test_rivals_are_swept_over_their_own_figures_and_an_as_good_one_is_not_said_to_be_beaten(comparison):
    by_what = {point.what: point for point in comparison.rivals}
    assert {point.rdma for point in comparison.rivals if point.rival == "rdma"} == set(shipped_names("rdma"))
    assert by_what["sac, 8 x 100 Gb/s"].order is Order.AHEAD
    assert by_what["mooncake, 8 x 190 Gb/s"].ratio < by_what["sac, 8 x 100 Gb/s"].ratio
    assert {point.hbm_kv_gb for point in comparison.rivals if point.rival == "hbm"} == {20.0, 40.0, 80.0}
    for point in comparison.rivals:
        assert point.order is comparison.at_concurrency("cxl").order(point.output_throughput)


def test_more_network_cards_or_hbm_never_slow_a_rival_down(comparison):
    throughput = {point.what: point.output_throughput.value for point in comparison.rivals}
    assert throughput["mooncake, 16 x 190 Gb/s"] >= throughput["mooncake, 8 x 190 Gb/s"]
    assert throughput["sac-rows, 16 x 100 Gb/s"] >= throughput["sac-rows, 8 x 100 Gb/s"]
    hbm = [throughput[f"{size} GB of HBM for KV per GPU"] for size in (20, 40, 80)]
    assert hbm == sorted(hbm)


def test_hbm_alone_and_in_a_comparison_find_the_same_prefixes():
    for kept in (True, False):
        base = ClusterSpec("hbm", free_hbm_prefix=kept)
        alone = simulate(base, ClosedLoop(64, 8, 32768, 64)).recorder.summary().output_throughput
        assert Setting(base, 32768, 64, 8, 64).throughput("hbm") == alone

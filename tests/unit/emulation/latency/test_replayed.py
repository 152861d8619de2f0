"""The replayed fetch beside its closed form."""

from dataclasses import asdict

import numpy as np
import pytest

from emulation.errors import InputError
from emulation.latency.replayed import Recording, recording_of_plans, replay, tier_paths
from emulation.latency.setting import setting_of
from emulation.report.page import write_page
from emulation.report.run import relative_latency_section, relative_latency_table
from emulation.report.tables import print_table
from emulation.timing.interval import Residual
from emulation.timing.path import Transfer, default_path
from emulation.timing.profile import load_profile
from sac_runtime.fetch.hot_buffer import HotBuffer
from sac_runtime.rows.layout import KvLayout

MISSES = np.array([[2048, 2048], [120, 0], [90, 30]])
RECORDING = Recording(MISSES, context_tokens=16384, top_k=2048, layout=KvLayout.fp8())


def by_tier(recording=RECORDING, **options):
    return {one.tier: one for one in replay(recording, tier_paths(**options))}


def test_a_lone_reader_takes_the_sum_of_its_fetches():
    for tier, one in by_tier().items():
        path = tier_paths()[tier][0]
        times_ns = [path.idle_ns(Transfer(m, m * 704)) if m else 0 for m in MISSES.ravel().tolist()]
        assert one.topk_us == pytest.approx(sum(times_ns) / 1e3)
        assert one.step_us == pytest.approx(sum(times_ns[2:]) / 2e3)
        assert one.prefix_us == pytest.approx(path.idle_ns(Transfer(512, 16384 * 2 * 704)) / 1e3)


def test_bytes_and_lines_are_those_of_the_misses_and_of_the_prefix():
    one = by_tier()["cxl"]
    assert one.rows == MISSES.sum() == 4336
    assert (one.num_bytes, one.lines) == (4336 * 656, 4336 * 11)
    assert (one.prefix_bytes, one.prefix_lines) == (2 * 16384 * 656, 2 * 16384 * 11)


def test_tiers_keep_their_order_and_dram_is_the_measure():
    tiers = by_tier()
    assert tiers["dram"].ratio_to_dram == tiers["dram"].prefix_ratio_to_dram == 1.0
    assert 1 < tiers["cxl"].ratio_to_dram < tiers["rdma"].ratio_to_dram


def test_break_even_is_length_over_what_later_steps_miss():
    # Steps after the first miss 60 rows per layer in the mean.
    assert RECORDING.miss_rate == pytest.approx(60 / 2048)
    assert RECORDING.break_even_steps == pytest.approx(16384 / 60)
    tiers = by_tier()
    assert tiers["rdma"].break_even_steps == RECORDING.break_even_steps
    assert tiers["rdma"].break_even_steps_by_time == pytest.approx(tiers["rdma"].prefix_us / tiers["rdma"].step_us)


def test_a_recording_without_later_misses_never_breaks_even():
    recording = Recording(np.array([[100], [0]]), 4096, 2048, KvLayout.bf16())
    assert recording.break_even_steps is None
    cxl = by_tier(recording)["cxl"]
    assert (cxl.step_us, cxl.break_even_steps_by_time) == (0, None)


def test_a_recording_that_fetched_nothing_takes_no_time():
    cxl = by_tier(Recording(np.zeros((2, 2), np.int64), 4096, 2048, KvLayout.bf16()))["cxl"]
    assert (cxl.topk_us, cxl.ratio_to_dram, cxl.num_bytes) == (0, 1.0, 0)


def test_readers_of_one_pool_slow_one_another_down():
    alone, eight = by_tier()["cxl"], by_tier(num_readers=8)["cxl"]
    assert eight.topk_us > 2 * alone.topk_us
    assert eight.prefix_us > 4 * alone.prefix_us


def test_plans_of_the_runtime_are_what_is_replayed():
    rng, buffers = np.random.default_rng(1), [HotBuffer(256, 64) for _ in range(2)]
    plans = [[b.plan(np.sort(rng.choice(1000, 64, replace=False)), 1001) for b in buffers] for _ in range(3)]
    recording = recording_of_plans(plans, 1000, 64, KvLayout.fp8())
    assert recording.misses.tolist() == [[plan.misses for plan in step] for step in plans]
    assert recording.misses.sum() > 0


def test_same_recording_same_answer():
    assert [asdict(one) for one in by_tier(num_readers=3).values()] == [
        asdict(one) for one in by_tier(num_readers=3).values()
    ]


def test_a_bed_s_own_path_can_stand_beside_the_tiers():
    tiers = tier_paths() | {"this bed": [default_path(load_profile("cxl-switched-750@gpu"))]}
    assert [one.tier for one in replay(RECORDING, tiers)][-1] == "this bed"
    del tiers["dram"]
    with pytest.raises(InputError, match="lack dram"):
        replay(RECORDING, tiers)


@pytest.mark.parametrize(
    ("misses", "said"),
    [
        (np.zeros((0, 2), np.int64), "not empty"),
        (np.array([3]), "must be"),
        (np.array([[9]]), r"outside \[0, top_k=8\]"),
    ],
)
def test_a_recording_that_cannot_be_is_refused(misses, said):
    with pytest.raises(InputError, match=said):
        Recording(misses, 100, 8, KvLayout.fp8())


def test_it_shows_as_table_and_page(tmp_path, capsys):
    paths = tier_paths()
    replays, setting = replay(RECORDING, paths), setting_of([one[0].profile for one in paths.values()], "one reader")
    print_table(relative_latency_table(replays, setting))
    assert "n* = 273 steps" in " ".join(capsys.readouterr().out.split())
    write_page(tmp_path / "page.html", "run", [relative_latency_section(replays, setting, tmp_path / "latency.svg")])
    page = (tmp_path / "page.html").read_text()
    assert "sac-gpu-rdma" in page
    assert "rows of DeepSeek-V3.2, read by H20 of the SAC testbed" in page


def test_a_replay_has_intervals_that_hold_its_times_and_widen_where_profiles_disagree():
    replays = by_tier()
    for one in replays.values():
        for name, interval in one.intervals.items():
            assert interval.low <= interval.value == getattr(one, name) <= interval.high
    cxl, dram = replays["cxl"].intervals["topk_us"], replays["dram"].intervals["topk_us"]
    assert dram.low == dram.high  # one profile, and no residuals given
    assert cxl.low < cxl.high
    wider = replay(RECORDING, tier_paths(), {"sac-gpu-dram": Residual(-0.1, 0.1, 6)})[0].intervals["topk_us"]
    assert (wider.low, wider.high) == pytest.approx((dram.value / 1.1, dram.value / 0.9))

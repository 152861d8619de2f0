"""The shipped profiles beside the paper's figures; the bounds are the project's."""

from dataclasses import replace

import pytest

from emulation.calibration import fetch as calibration
from emulation.calibration.fetch import fig3_points, fig5_points, stale_profiles
from emulation.calibration.readings import summary
from emulation.latency.modelled import entries_us
from emulation.timing.profile import load_profile
from emulation.timing.tiers import FIG5_PROFILES, PREFIX_ENGINE


def shipped():
    return {tier: load_profile(name) for tier, name in FIG5_PROFILES.items()}


def test_fetch_of_random_entries_stays_within_its_bounds_at_all_18_points():
    points = fig5_points(shipped())
    assert len(points) == 18
    median, worst = summary(points)
    assert median <= 0.04
    assert worst <= 0.15


def test_prefix_fetch_stays_within_its_bounds_at_all_22_points():
    points = fig3_points(load_profile(PREFIX_ENGINE))
    assert len(points) == 22
    median, worst = summary(points)
    assert median <= 0.06
    assert worst <= 0.12


@pytest.mark.parametrize("entries", [1, 64, 100, 128, 256, 512, 1024, 2048, 6144, 100_000])
def test_tiers_keep_their_order_at_every_number_of_entries(entries):
    dram, cxl, rdma = (entries_us(profile, entries) for profile in shipped().values())
    assert dram <= cxl < rdma
    assert dram < cxl or entries < 64  # below, both are the launch alone


def test_the_shipped_files_hold_what_the_fit_gives():
    fitted = [*calibration.fit_gpu_fetch().profiles().values(), calibration.fit_prefix().profile()]
    assert stale_profiles(fitted) == []
    assert stale_profiles([replace(fitted[0], setup_ns=1), *fitted[1:]]) == [fitted[0].name]


def test_the_bounds_notice_a_parameter_that_is_off():
    tiers = shipped()
    slow = tiers | {"cxl": replace(tiers["cxl"], read_latency_ns=round(1.3 * tiers["cxl"].read_latency_ns))}
    assert summary(fig5_points(slow))[1] > 0.15
    prefix = load_profile(PREFIX_ENGINE)
    assert summary(fig3_points(replace(prefix, request_ns=20 * prefix.request_ns)))[1] > 0.12

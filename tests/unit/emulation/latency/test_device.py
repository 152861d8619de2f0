"""Fetches by a GPU: what is booked of a gather that keeps its pace, of one that cannot, of one that brings wrong bytes."""

import pytest
import torch

from emulation.errors import CxlbedError
from emulation.latency.device import paced_times
from emulation.latency.injected import expected_rows, filled_store
from emulation.timing.profile import load_profile
from sac_runtime.gpu.pace import Pace
from sac_runtime.label import Label
from sac_runtime.rows.layout import KvLayout

LAYOUT, NAMES = KvLayout.bf16(), ("sac-gpu-dram", "sac-gpu-rdma")


class Gather:
    """Takes a share of its pace's time, or a fixed least; brings what the store holds but for a flipped bit."""

    def __init__(self, share=1.0, least_ns=0, flips=0):
        self.out = torch.zeros((256, LAYOUT.row_bytes), dtype=torch.uint8)
        self.share, self.least_ns, self.flips = share, least_ns, flips

    def gather(self, rows, pace: Pace):
        self.out[: len(rows)] = torch.from_numpy(expected_rows(rows.numpy(), LAYOUT.row_bytes))
        self.out[0, 0] ^= self.flips
        return max(self.least_ns, round(self.share * (pace.first_ns + (len(rows) - 1) * pace.row_ps / 1000)))


def times_by(gather):
    profiles = [load_profile(name) for name in NAMES]
    with filled_store("anonymous", LAYOUT, 512) as store:
        return paced_times(store, gather, profiles, [256], 5, 0)


def test_a_gather_that_keeps_its_pace_shows_the_profiles_time_and_ratio():
    (dram, rdma), error = times_by(Gather(share=1.02))
    assert {dram.label, rdma.label} == {Label.INJECTED}
    assert rdma.us == pytest.approx(1.02 * rdma.modelled_us, rel=1e-3)
    assert rdma.ratio_to_dram == pytest.approx(rdma.modelled_us / dram.modelled_us, rel=1e-2)
    assert error.median_error == pytest.approx(0.02, abs=1e-3)
    assert (error.num_honoured, error.num_late) == (10, 0)


def test_a_tier_that_is_faster_than_the_host_memory_is_late_and_gets_no_ratio():
    (dram, rdma), error = times_by(Gather(least_ns=60_000))  # between both profiles' times
    assert (dram.late, rdma.late) == (5, 0)
    assert dram.us == 60.0 > dram.modelled_us
    assert dram.ratio_to_dram is None and rdma.ratio_to_dram is None
    assert error.num_late == 5


def test_a_wrong_byte_ends_the_measurement():
    with pytest.raises(CxlbedError, match="bytes that are not those of its rows"):
        times_by(Gather(flips=1))

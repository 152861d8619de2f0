"""Timed fetches with real bytes."""

import numpy as np
import pytest

from emulation.errors import CxlbedError
from emulation.stores.fetch_time import bare_times, expected_rows, injected_times, open_store
from emulation.timing.profile import load_profile
from sac_runtime.label import Label
from sac_runtime.layout import KvLayout


def test_one_wrong_byte_is_noticed():
    with open_store("anonymous", KvLayout.fp8(), 300) as store:
        bare_times(store, Label.HARDWARE, [300], repeats=3)
        spoilt = expected_rows(np.array([5]), 656)
        spoilt[0, 655] ^= 1
        store.write_rows(np.array([5]), spoilt)
        with pytest.raises(CxlbedError, match="bytes that are not those of its rows"):
            bare_times(store, Label.HARDWARE, [3000], repeats=3)


def test_rows_differ_from_one_another():
    assert len(np.unique(expected_rows(np.arange(4096), 1152), axis=0)) == 4096


def test_there_is_no_ratio_to_a_profile_that_the_store_is_too_slow_for():
    with open_store("anonymous", KvLayout.bf16(), 300) as store:
        profiles = [load_profile("dram-pond-intel"), load_profile("rdma-100g")]
        (dram, rdma), error = injected_times(store, profiles, [1], repeats=5)
    assert dram.late == 5  # 0.15 us: no call from Python is as fast
    assert dram.ratio_to_dram is None
    assert rdma.ratio_to_dram is None
    assert error["num_late"] >= 5

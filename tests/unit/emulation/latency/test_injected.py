"""Timed fetches with real bytes."""

import numpy as np
import pytest

from emulation.errors import CxlbedError
from emulation.latency.injected import bare_times, expected_rows, filled_store, injected_times, measured_label
from emulation.timing.profile import load_profile
from sac_runtime.label import Label
from sac_runtime.rows.layout import KvLayout


def test_one_wrong_byte_is_noticed():
    with filled_store("anonymous", KvLayout.fp8(), 300) as store:
        bare_times(store, Label.HARDWARE, [300], repeats=3)
        spoilt = expected_rows(np.array([5]), 656)
        spoilt[0, 655] ^= 1
        store.write_rows(np.array([5]), spoilt)
        with pytest.raises(CxlbedError, match="bytes that are not those of its rows"):
            bare_times(store, Label.HARDWARE, [3000], repeats=3)


@pytest.mark.parametrize(
    ("vendor", "num_nodes", "spec", "claimed", "deserved"),
    [
        ("Dell Inc.", 1, "dax:/dev/dax0.0", "hardware", "hardware"),
        ("QEMU", 1, "dax:/dev/dax0.0", "hardware", "functional"),
        ("Dell Inc.", 2, "numa:1", "numa-measured", "numa-measured"),
        ("Dell Inc.", 2, "numa:1", "hardware", "hardware"),
        ("Dell Inc.", 1, "numa:0", "numa-measured", "functional"),
        ("QEMU", 2, "numa:1", "numa-measured", "functional"),
        ("Dell Inc.", 2, "anonymous", "numa-measured", "functional"),
        ("Dell Inc.", 2, "shared:/dev/shm/x", "hardware", "functional"),
        ("Dell Inc.", 2, "dax:/dev/dax0.0", "modelled", "functional"),
    ],
)
def test_a_bare_reading_gets_no_label_that_cannot_be_true(
    tmp_path, monkeypatch, vendor, num_nodes, spec, claimed, deserved
):
    (tmp_path / "sys_vendor").write_text(f"{vendor}\n")
    monkeypatch.setattr("guest.agent.stores.VENDOR_FILE", tmp_path / "sys_vendor")
    monkeypatch.setattr("emulation.latency.injected.num_nodes", lambda: num_nodes)
    assert measured_label(Label(claimed), spec) == Label(deserved)


def test_rows_differ_from_one_another():
    assert len(np.unique(expected_rows(np.arange(4096), 1152), axis=0)) == 4096


def test_there_is_no_ratio_to_a_profile_that_the_store_is_too_slow_for():
    with filled_store("anonymous", KvLayout.bf16(), 300) as store:
        profiles = [load_profile("dram-pond-intel"), load_profile("rdma-100g")]
        (dram, rdma), error = injected_times(store, profiles, [1], repeats=5)
    assert dram.late == 5  # 0.15 us: no call from Python is as fast
    assert dram.ratio_to_dram is None
    assert rdma.ratio_to_dram is None
    assert error.num_late >= 5

"""A short soak of processes under every fault; and one that would be wrong, which is told."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from emulation.errors import InputError
from emulation.faults import soak as soaks
from emulation.faults.soak import SoakReport, soak
from emulation.faults.soak_host import COUNTERS, SoakHost, contents, counters_in, geometry_for, hashes_of, open_store
from sac_runtime.pool.pool import Pool


def test_three_hosts_under_faults_give_no_wrong_byte_and_get_on_again_and_a_soak_is_resumed(tmp_path):
    state = tmp_path / "state.json"
    first = soak(3, 3.0, seed=1, state=state, faults_per_s=3.0)
    assert first.passed, first
    assert json.loads(state.read_text()) == asdict(first)
    both = soak(3, first.seconds + 3.0, seed=1, state=state, faults_per_s=3.0)
    assert both.passed, both
    assert both.fetches > first.fetches > 2
    assert both.publishes > first.publishes > 2
    assert sum(both.faults_by_kind.values()) > sum(first.faults_by_kind.values()) > 3
    with pytest.raises(InputError, match="is of seed=1, hosts=3, asked for are seed=2"):
        soak(3, 1.0, seed=2, state=state)
    state.write_text("{}")
    with pytest.raises(InputError, match="is no report of a soak"):
        soak(3, 1.0, state=state)


def test_wrong_bytes_refused_and_healed_rows_are_counted(tmp_path, monkeypatch):
    geometry = geometry_for(2)
    with open_store(tmp_path, geometry) as store:
        pool = Pool.create(store, host=0, num_hosts=2, num_layers=2, block_tokens=4, blocks_per_host=24)
        counters = counters_in(tmp_path, 2)
        host = SoakHost(0, geometry, store, counters, np.random.default_rng(0))
        for _ in range(6):
            host._publish(pool)
        for _ in range(20):
            host._fetch_under_lease(pool)
        counted = dict(zip(COUNTERS, counters[0].tolist(), strict=True))
        assert counted["fetches"] > 100
        assert counted["wrong_bytes"] == counted["refused"] == counted["healed"] == 0
        rows = pool.rows(pool.lookup(hashes_of(0, 6, geometry)), 0)
        for row in rows.tolist():  # a bit of each, so that its check fails
            byte = np.empty(1, np.uint8)
            offset = store.rows_offset + row * geometry.layout.stride_bytes
            store.read_bytes(offset, byte)
            store.write_bytes(offset, byte ^ np.uint8(4))
        for _ in range(20):
            host._fetch_under_lease(pool)
        counted = dict(zip(COUNTERS, counters[0].tolist(), strict=True))
        assert counted["refused"] > 5
        assert counted["healed"] > 5
        assert counted["wrong_bytes"] == 0
        store.write_rows(rows, np.zeros((len(rows), geometry.layout.row_bytes), np.uint8))  # under right checks
        for _ in range(20):
            host._fetch_under_lease(pool)
        assert counters[0, COUNTERS.index("wrong_bytes")] > 5


def test_a_report_passes_only_without_wrong_bytes_hung_hosts_and_exits():
    assert SoakReport(0, 2).passed
    for name in ("wrong_bytes", "hung", "exits"):
        assert not SoakReport(0, 2, **{name: 1}).passed


def test_a_host_that_makes_no_progress_is_hung(monkeypatch):
    monkeypatch.setattr(soaks, "HANG_S", 1.0)
    monkeypatch.setattr(soaks, "LIVENESS_S", 1.0)
    monkeypatch.setattr(soaks, "FAULTS", ("flip row",))
    start = soaks._Crew._start

    def start_and_stop(self, host):
        process = start(self, host)
        process.send_signal(soaks.signal.SIGSTOP)  # unknown to the crew
        return process

    monkeypatch.setattr(soaks._Crew, "_start", start_and_stop)
    report = soak(2, 3.0, faults_per_s=10.0)
    assert report.hung >= 2
    assert not report.passed


def test_contents_of_blocks_differ():
    geometry = geometry_for(2)
    seen = {contents(name, geometry).tobytes() for request in range(9) for name in hashes_of(1, request, geometry)}
    assert len(seen) == 18


def test_a_soak_of_one_host_is_refused():
    with pytest.raises(InputError, match="hosts=1 must be at least 2"):
        soak(1, 1.0)

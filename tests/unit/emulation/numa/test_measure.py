"""Native loops are measured on whatever memory this machine has: counts are exact, times only bounded from the safe side."""

import json
import time
from dataclasses import asdict

import numpy as np
import pytest

from emulation.cli.terminal import show
from emulation.errors import MachineError
from emulation.latency.chase import write_chain
from emulation.numa.compare import beside_profile, top_up
from emulation.numa.measure import Effort, Figures, LoadPoint, Streams, chase_ns, measure, refuse_emulated_cpu
from emulation.numa.records import SurveyDocument
from emulation.numa.survey import survey
from emulation.report.numa import survey_report
from emulation.timing import native
from emulation.timing.profile import load_profile
from guest.agent.numa_nodes import Pair, find_nodes
from guest.agent.numa_placement import LINE
from sac_runtime.label import Label
from sac_runtime.memory.mapped import MappedStore
from tests.support.command import cxlbed

QUICK = Effort(num_reads=20_000, repeats=3, stream_s=0.05, load_fractions=(0.5, 1.0))
SMALL_BYTES = 16 << 20


@pytest.fixture
def node():
    return find_nodes()[0]


@pytest.fixture
def store():
    with MappedStore.anonymous(LINE, SMALL_BYTES // 64) as store:
        write_chain(store, seed=3)
        yield store


def test_a_chase_stands_where_the_chain_says_after_n_reads(store):
    following = np.empty(store.size_bytes, np.uint8)
    store.read_bytes(0, following)
    chain = following.view(np.int64)[::8]
    row = 0
    for _ in range(1000):
        row = int(chain[row])
    assert native.chase(store.address, store.num_rows, 64, 0, 1000, 0.0)[2] == row


def test_a_chase_through_all_rows_comes_back_to_its_start(store):
    assert native.chase(store.address, store.num_rows, 64, 0, store.num_rows, 0.0)[2] == 0


def test_a_chase_takes_no_less_than_the_cache_would(store):
    assert chase_ns(store, QUICK) > 0.5  # a load that depends on another: some cycles, whatever the machine


def test_a_paced_stream_keeps_to_its_pace(store):
    pace_ns = 1_000_000  # a block of 64 KiB per ms
    begin_ns = time.perf_counter_ns()
    with Streams(store, (0,), pace_ns=pace_ns) as streams:
        time.sleep(0.1)
    elapsed_ns = time.perf_counter_ns() - begin_ns
    most = (elapsed_ns / pace_ns + 1) * native.BLOCK_BYTES
    assert 0 < streams.bytes_per_ns * elapsed_ns <= most * 1.01


def test_a_writing_stream_overwrites_all_that_it_is_given(store):
    with Streams(store, (0,), write=True) as streams:
        time.sleep(0.2)
    first, last = np.empty(64, np.uint8), np.empty(64, np.uint8)
    store.read_bytes(0, first)
    store.read_bytes(store.size_bytes - 64, last)
    assert streams.bytes_per_ns > 0
    assert len(set(first)) == len(set(last)) == 1


def test_an_emulated_cpu_is_refused_and_a_real_one_is_not(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: QEMU TCG CPU version 2.5+\n")  # as a guest without KVM shows it
    with pytest.raises(MachineError, match="its wall clock is no latency") as refused:
        refuse_emulated_cpu(cpuinfo)
    assert refused.value.exit_status == 3
    cpuinfo.write_text("model name\t: Intel(R) Xeon(R) Processor\n")
    refuse_emulated_cpu(cpuinfo)


def test_on_one_cpu_there_is_no_latency_under_load(store):
    assert measure(store, (0,), QUICK).loaded == ()


FIGURES = Figures(180.0, 12.0, 9.0, 30.0, 20.0, (LoadPoint(23.6, 200.0),), 1.0)


def test_measured_figures_stand_beside_the_narrowest_link_of_the_profile():
    profile = load_profile("cxl-switched-220")
    latency, one, everyone, loaded = beside_profile(FIGURES, profile)
    assert (latency.measured, latency.profile, latency.source) == (
        180.0,
        220,
        "assumed (source unverified): 220.5 ns",
    )
    assert (one.measured, one.profile) == (12.0, profile.reader.read_bytes_per_ns)
    assert (everyone.profile, everyone.source) == (45.0, profile.sources["device.read_bytes_per_ns"])
    assert loaded.profile == profile.latency_ns(load=23.6 / 45.0)


def test_a_node_faster_than_the_profile_is_topped_up_to_it(store):
    profile = load_profile("cxl-switched-750")
    topped_up = top_up(store, 100.0, profile, QUICK)
    assert topped_up.label is Label.INJECTED
    assert topped_up.wanted_ns == 750
    assert topped_up.achieved_ns >= 750 * 0.99


@pytest.mark.parametrize("measured_ns", [220.0, 300.0])
def test_a_node_no_faster_than_the_profile_is_left_alone_and_the_reason_said(store, measured_ns):
    topped_up = top_up(store, measured_ns, load_profile("cxl-switched-220"), QUICK)
    assert topped_up.achieved_ns is None
    assert topped_up.reason == f"the node reads in {measured_ns:.0f} ns already; a stall can add time, not take it away"


def test_a_survey_of_one_node_with_itself_gives_every_figure_the_measured_label(node):
    told = []
    found = survey(Pair(node, node), SMALL_BYTES, load_profile("cxl-switched-750"), QUICK, told.append)
    assert {record.label for record in found.records} == {Label.NUMA_MEASURED}
    assert all(record.value > 0 for record in found.records)
    assert found.proof.pages_moved == {node.number: SMALL_BYTES // 4096}
    assert found.local != found.remote
    assert len(told) == 2


def test_a_survey_is_shown_with_both_labels_and_written_for_machines(node, capsys):
    found = survey(Pair(node, node), SMALL_BYTES, load_profile("cxl-switched-750"), QUICK, lambda text: None)
    show(None, *survey_report(found, "cxl-switched-750"))
    shown = capsys.readouterr().out
    assert "numa-measured" in shown
    assert "topped up (injected)" in shown or "not topped up" in shown
    written = json.loads(json.dumps(asdict(SurveyDocument.of(found, [node], "cxl-switched-750", ""))))
    assert {record["label"] for record in written["records"]} == {"numa-measured"}
    assert written["top_up"]["label"] == "injected"
    assert "ratio" not in json.dumps(written["beside_profile"])


def test_the_command_refuses_one_node_with_status_3_and_writes_no_figure(tmp_path):
    if len(find_nodes()) > 1:
        pytest.skip("this machine has several NUMA nodes: nothing to refuse")
    done = cxlbed("numa", "--json", tmp_path / "numa.json")
    assert done.returncode == 3
    assert "has one NUMA node" in done.stderr
    assert "numa-measured" not in done.stdout
    assert not (tmp_path / "numa.json").exists()


@pytest.mark.parametrize(
    ("size", "problem"), [("1X", "is not a size"), ("3", "not a multiple of 2 MiB"), ("65M", "multiple")]
)
def test_a_size_that_cannot_be_bound_is_refused_with_status_2(size, problem):
    done = cxlbed("numa", "--size", size)
    assert (done.returncode, problem in done.stderr) == (2, True)

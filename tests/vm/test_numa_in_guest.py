"""Binding and its proof inside a guest with two NUMA nodes, one of them without CPUs."""

import pytest

from emulation.numa.survey import placement_in_guest
from guest.errors import CommandError

POOL_BYTES = 64 << 20
MISPLACED = """
import sys
from guest.agent.numa_nodes import choose_pair, find_nodes
from guest.agent.numa_placement import prove, store_on
pair = choose_pair(find_nodes())
with store_on(pair.local, 16 << 20) as store:
    problems = prove(store).problems(pair, 4096)
sys.exit(len(problems))
"""


@pytest.mark.cxlbed("remote-numa")
def test_a_pool_bound_in_a_two_node_guest_lies_on_the_remote_node_by_move_pages_and_numa_maps(bed):
    with bed.session("a") as session:
        report = placement_in_guest(session, POOL_BYTES)
    assert (report["local"], report["remote"], report["distance"]) == (0, 1, 20)
    assert report["placement"]["policy"] == "bind:1"
    assert report["placement"]["pages_moved"] == report["placement"]["pages_mapped"] == {"1": POOL_BYTES // 4096}
    assert report["placement"]["reader_cpus"] == [0, 1]
    assert report["label"] == "functional"


@pytest.mark.cxlbed("remote-numa")
def test_the_guests_hmat_is_what_the_bed_file_says(bed):
    with bed.session("a") as session:
        local, remote = placement_in_guest(session, POOL_BYTES)["nodes"]
    assert (local["access"]["read_latency_ns"], remote["access"]["read_latency_ns"]) == (80, 142)
    assert remote["access"]["write_bandwidth_mib_per_s"] == 20480
    assert remote["cpus"] == []


@pytest.mark.cxlbed("remote-numa")
def test_a_pool_bound_to_the_wrong_node_is_found_out_in_the_guest(bed):
    with bed.session("a") as session:
        session.put(MISPLACED.encode(), "/tmp/misplaced.py")
        assert session.python("/tmp/misplaced.py", check=False).status == 3  # policy, move_pages and numa_maps


@pytest.mark.cxlbed("remote-numa")
def test_a_pool_larger_than_the_remote_node_is_refused_by_the_guest(bed):
    with bed.session("a") as session, pytest.raises(CommandError, match="does not fit node 1"):
        placement_in_guest(session, 1 << 30)

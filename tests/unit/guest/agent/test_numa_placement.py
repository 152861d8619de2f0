import os
from dataclasses import replace
from pathlib import Path

import pytest

from guest.agent.errors import HostError, PlacementError
from guest.agent.numa_nodes import Pair, choose_pair, find_nodes
from guest.agent.numa_placement import Proof, parse_numa_maps, prove, require_placed, store_on, threads_on

RECORDED = (Path(__file__).parent / "recorded" / "numa_maps.txt").read_text()
BOUND_AT = 0x7F32FE000000
PLACED = Proof("bind:1", {1: 512}, {1: 512}, (0, 1))


@pytest.fixture
def pair(sysfs):
    return choose_pair(find_nodes(sysfs()))


@pytest.fixture
def here():
    """The first node of this machine, as both ends."""
    node = find_nodes()[0]
    return Pair(node, node)


def test_the_recorded_mapping_shows_its_policy_and_its_pages_by_node():
    assert parse_numa_maps(RECORDED, BOUND_AT) == ("bind:1", {1: 16384})


def test_huge_pages_count_as_the_small_ones_that_they_replace():
    assert parse_numa_maps("7f00000000 bind:1 anon=3 N0=1 N1=2 kernelpagesize_kB=2048", 0x7F00000000)[1] == {
        0: 512,
        1: 1024,
    }


def test_a_mapping_without_pages_has_none():
    assert parse_numa_maps("7f00000000 bind:1", 0x7F00000000) == ("bind:1", {})


def test_an_unknown_mapping_is_an_error_not_an_empty_proof():
    with pytest.raises(PlacementError, match="no mapping at 0x1000"):
        parse_numa_maps(RECORDED, 0x1000)


def test_a_right_placement_leaves_nothing_to_say(pair):
    assert PLACED.problems(pair, 512) == []
    require_placed(PLACED, pair, 512)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ({"policy": "default"}, "placement: policy=default is not bind:1"),
        (
            {"pages_moved": {0: 1, 1: 511}},
            "placement: move_pages sees pages 1 on node 0, 511 on node 1, not 512 on node 1",
        ),
        ({"pages_mapped": {1: 511}}, "placement: numa_maps sees pages 511 on node 1, not 512 on node 1"),
        ({"pages_moved": {}}, "placement: move_pages sees pages on no node, not 512 on node 1"),
        ({"reader_cpus": (1, 2)}, "placement: the reader may run on CPUs [2], which are not node 0's"),
    ],
)
def test_each_source_that_speaks_against_the_placement_is_named(pair, broken, problem):
    with pytest.raises(PlacementError) as refused:
        require_placed(replace(PLACED, **broken), pair, 512)
    assert str(refused.value) == problem


def test_memory_bound_to_a_node_of_this_machine_is_proved_there(here):
    with threads_on(here.local) as cpus, store_on(here.local, 8 << 20) as store:
        proof = prove(store)
        assert proof.problems(here, 2048) == []
        assert proof.pages_moved == {here.local.number: 2048}
        assert proof.reader_cpus == cpus


def test_memory_on_another_node_than_claimed_is_found_out(here):
    elsewhere = Pair(here.local, replace(here.local, number=here.local.number + 1))
    with store_on(here.local, 8 << 20) as store:
        assert len(prove(store).problems(elsewhere, 2048)) == 3


def test_threads_come_back_to_the_cpus_that_they_had(here):
    before = os.sched_getaffinity(0)
    one = replace(here.local, cpus=here.local.cpus[:1])
    with threads_on(one) as cpus:
        assert os.sched_getaffinity(0) == set(cpus) == set(one.cpus)
    assert os.sched_getaffinity(0) == before


def test_a_node_whose_cpus_this_process_may_not_use_is_refused(here):
    with pytest.raises(HostError, match="none of node"), threads_on(replace(here.local, cpus=(4095,))):
        pass


def test_more_memory_than_a_node_has_free_is_refused_before_it_is_taken(here):
    with pytest.raises(HostError, match="does not fit node"):
        store_on(replace(here.local, free_bytes=1 << 20), 2 << 20)

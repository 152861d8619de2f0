"""The recorded tree is of a booted guest of the stock topology remote-numa (Linux 6.12, QEMU 10.0.2)."""

import shutil

import pytest

from guest.agent.errors import HostError, RequestError
from guest.agent.numa_nodes import Access, choose_pair, find_nodes, num_nodes, parse_cpu_list


def test_a_guests_nodes_are_read_with_cpus_memory_distances_and_hmat(sysfs):
    first, second = find_nodes(sysfs())
    assert (first.number, first.cpus, first.memory_bytes) == (0, (0, 1), 992624 * 1024)
    assert (second.number, second.cpus, second.free_bytes) == (1, (), 489196 * 1024)
    assert second.distances == {0: 20, 1: 10}
    assert first.access == Access(80, 80, 40960, 40960)
    assert second.access == Access(142, 142, 20480, 20480)


def test_a_node_without_an_hmat_entry_claims_no_figures(sysfs):
    root = sysfs()
    shutil.rmtree(root / "node1" / "access0")
    assert find_nodes(root)[1].access is None


def test_nodes_whose_numbers_have_a_gap_keep_their_own_distances(sysfs):
    root = sysfs(("10 20", "10 31"))
    (root / "node1").rename(root / "node4")
    assert [(node.number, node.distances) for node in find_nodes(root)] == [(0, {0: 10, 4: 31}), (4, {0: 20, 4: 10})]


def test_a_kernel_without_numa_is_refused_with_status_3(tmp_path):
    with pytest.raises(HostError, match="shows no node") as refused:
        find_nodes(tmp_path)
    assert refused.value.exit_status == 3


def test_nodes_are_counted_and_a_kernel_that_shows_none_has_one(sysfs, tmp_path):
    assert num_nodes(sysfs()) == 2
    assert num_nodes(tmp_path / "none") == 1


def test_the_pair_is_the_first_node_with_cpus_and_the_farthest_memory(sysfs):
    pair = choose_pair(find_nodes(sysfs()))
    assert (pair.local.number, pair.remote.number, pair.distance) == (0, 1, 20)


def test_of_several_remote_nodes_the_farthest_is_chosen(sysfs):
    root = sysfs(("10 20", "10 21 17"), ("20 10", "21 10 17"))
    shutil.copytree(root / "node1", root / "node2")
    (root / "node2" / "distance").write_text("17 17 10")
    assert choose_pair(find_nodes(root)).remote.number == 1
    assert choose_pair(find_nodes(root), remote=2).remote.number == 2


def test_one_node_is_refused_with_status_3_and_no_figure(sysfs):
    root = sysfs(("10 20", "10"))
    shutil.rmtree(root / "node1")
    with pytest.raises(HostError) as refused:
        choose_pair(find_nodes(root))
    assert str(refused.value) == (
        "machine: has one NUMA node (node 0: 2 CPUs, 0.9 GiB), so it has no remote memory to measure; "
        "take a two-socket host, or for the plumbing a guest of the stock topology remote-numa"
    )


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        ({"local": 1}, r"local=1 has no CPUs, or there is no such node \(fitting: 0\)"),
        ({"local": 9}, r"local=9 has no CPUs, or there is no such node \(fitting: 0\)"),
        ({"remote": 0}, r"remote=0 has no memory or is the local node, or there is no such node \(fitting: 1\)"),
    ],
)
def test_a_named_node_that_does_not_fit_is_refused_with_those_that_do(sysfs, chosen, problem):
    with pytest.raises(RequestError, match=problem):
        choose_pair(find_nodes(sysfs()), **chosen)


@pytest.mark.parametrize(("text", "cpus"), [("0-2,8\n", (0, 1, 2, 8)), ("5", (5,)), ("\n", ())])
def test_a_cpu_list_is_read_as_the_kernel_writes_it(text, cpus):
    assert parse_cpu_list(text) == cpus

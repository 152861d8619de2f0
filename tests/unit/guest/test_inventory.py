"""Recorded outputs of booted guests, one a stock topology (recorded/NAME.txt, beside the picture that the guest was promised)."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest

from emulation.machines.promise import differences
from guest import inventory

RECORDED = Path(__file__).parent / "recorded"
TOPOLOGIES = sorted(path.stem for path in RECORDED.glob("*.txt"))


def shown(topology):
    return inventory.parse((RECORDED / f"{topology}.txt").read_text())


def promised(topology):
    return json.loads((RECORDED / f"{topology}.picture.json").read_text())


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_booted_guest_shows_what_its_bed_file_promised(topology):
    assert differences(promised(topology), shown(topology)) == []


def test_devices_are_known_by_serial_whatever_the_kernel_numbers_them():
    memdevs = shown("interleaved-4").memdevs
    assert [memdev.serial for memdev in memdevs] == [0xC0, 0xC1, 0xC2, 0xC3]
    assert [memdev.name for memdev in memdevs] != ["mem0", "mem1", "mem2", "mem3"]


def test_an_interleaved_region_lists_its_serials_by_position():
    (region,) = shown("interleaved-4").regions
    assert region.serials == (0xC0, 0xC1, 0xC2, 0xC3)
    assert (region.ways, region.granularity_bytes, region.committed) == (4, 1024, True)


def test_a_window_lists_its_host_bridges_by_position():
    (window,) = shown("interleaved").windows
    assert window.host_bridges == ("pci0000:0c", "pci0000:40")


def test_a_device_below_a_switch_names_the_switch_and_one_below_a_root_port_does_not():
    assert {memdev.switch for memdev in shown("switched").memdevs} == {"port2"}
    assert {memdev.switch for memdev in shown("direct").memdevs} == {None}


def test_a_region_has_the_mode_that_daxctl_says():
    devdax, system_ram = shown("switched").regions
    assert (devdax.mode, devdax.dax_path) == ("devdax", "/dev/dax0.0")
    assert (system_ram.mode, system_ram.num_offline_blocks) == ("system-ram", 0)


def test_a_region_is_found_by_its_serials_in_their_order():
    inventory_ = shown("interleaved")
    assert inventory_.region_of([0xC0, 0xC1]).name == "region0"
    assert inventory_.region_of([0xC1, 0xC0]) is None


def test_hmat_figures_and_the_distance_of_a_node_without_cpus_are_read():
    local, remote = shown("remote-numa").numa_nodes
    assert (local.cpus, remote.cpus) == ("0-1", "")
    assert (remote.distance, remote.read_latency_ns, remote.read_bandwidth_mib_per_s) == (20, 142, 20480)
    assert remote.memory_bytes == 512 << 20


def test_a_guest_without_cxl_and_dax_parses_to_nothing():
    assert inventory.parse_cxl("", {}) == ((), (), ())
    assert inventory.parse_daxctl("") == {}


def test_cpu_lists_are_counted():
    assert [inventory.num_cpus(text) for text in ("", "0", "0-1", "0-2,5,8-9")] == [0, 1, 2, 6]


def broken(topology, *path_and_value):
    """The picture of `topology` with one value replaced."""
    *path, last, value = path_and_value
    picture = copy.deepcopy(promised(topology))
    place = picture
    for step in path:
        place = place[step]
    place[last] = value
    return picture


@pytest.mark.parametrize(
    ("topology", "change", "said"),
    [
        ("direct", ("memdevs", 0, "size_bytes", 1), "size_bytes: promised 1, shown "),
        ("direct", ("memdevs", 0, "serial", 0x99), "(serial 0x99): promised, not shown; serials shown: 0xc0"),
        ("direct", ("memdevs", 0, "host_bridge", "pci0000:ff"), "host_bridge: promised pci0000:ff, shown pci0000:0c"),
        ("direct", ("memdevs", 0, "switch", "sw0"), "switch: promised a switch, shown None"),
        ("direct", ("memdevs", []), "shown, not promised"),
        ("switched", ("memdevs", 1, "switch", None), "switch: promised None, shown port2"),
        ("interleaved", ("windows", 0, "ways", 1), "window 'w0' (decoder0.0): ways: promised 1, shown 2"),
        ("interleaved", ("windows", 0, "granularity_bytes", 256), "granularity_bytes: promised 256, shown 1024"),
        ("interleaved", ("windows", 0, "host_bridges", ["pci0000:40", "pci0000:0c"]), "host_bridges: promised ["),
        ("direct", ("windows", []), "windows: promised 0, shown 1"),
        ("interleaved", ("regions", 0, "serials", [0xC1, 0xC0]), "promised over serials 0xc1, 0xc0, not shown"),
        ("interleaved", ("regions", 0, "granularity_bytes", 512), "granularity_bytes: promised 512, shown 1024"),
        ("switched", ("regions", 1, "mode", "devdax"), "region 'r1': mode: promised devdax, shown system-ram"),
        ("direct", ("regions", []), "region0: shown, not promised"),
        ("remote-numa", ("numa_nodes", 1, "num_cpus", 2), "NUMA node 1: CPUs: promised 2, shown 0"),
        ("remote-numa", ("numa_nodes", 1, "distance", 30), "distance: promised 30, shown 20"),
        ("remote-numa", ("numa_nodes", 1, "memory_bytes", 1), "memory_bytes: promised 1, shown 536870912"),
        ("remote-numa", ("numa_nodes", 1, "access", "read_latency_ns", 1), "read_latency_ns: promised 1, shown 142"),
        ("remote-numa", ("numa_nodes", 1, "node", 7), "NUMA node 7: promised, not shown; nodes shown: 0, 1"),
    ],
)
def test_a_broken_promise_is_told_with_both_sides(topology, change, said):
    told = differences(broken(topology, *change), shown(topology))
    assert any(said in line for line in told), told


@pytest.mark.parametrize("change", [{"committed": False}, {"num_offline_blocks": 4}, {"decoder": "decoder0.7"}])
def test_a_region_that_is_there_but_not_in_use_is_a_difference(change):
    inventory_ = shown("switched")
    regions = (replace(inventory_.regions[0], **change), *inventory_.regions[1:])
    assert differences(promised("switched"), replace(inventory_, regions=regions))


def test_devices_that_share_a_switch_on_paper_must_share_it_in_the_guest():
    inventory_ = shown("switched")
    memdevs = (inventory_.memdevs[0], replace(inventory_.memdevs[1], switch="port9"))
    told = differences(promised("switched"), replace(inventory_, memdevs=memdevs))
    assert told == ["device 'mem1' (serial 0xc1): switch: promised port2, shown port9"]

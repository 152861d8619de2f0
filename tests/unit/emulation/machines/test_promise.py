"""What recorded guests show (tests/unit/guest/recorded/NAME.txt) beside the picture that each was promised, whole and broken."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest

from emulation.machines.promise import PromiseError, differences, require_promise
from guest import inventory
from qemu_configs.picture import from_json

RECORDED = Path(__file__).parents[2] / "guest" / "recorded"
TOPOLOGIES = sorted(path.stem for path in RECORDED.glob("*.txt"))


def shown(topology):
    return inventory.parse((RECORDED / f"{topology}.txt").read_text())


def promised(topology):
    return from_json((RECORDED / f"{topology}.picture.json").read_text())


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_booted_guest_shows_what_its_bed_file_promised(topology):
    assert differences(promised(topology), shown(topology)) == []
    require_promise(promised(topology), shown(topology))


def test_a_broken_promise_is_an_error_with_every_difference():
    with pytest.raises(PromiseError, match="other than its bed file promises") as raised:
        require_promise(promised("interleaved"), shown("direct"))
    assert str(raised.value).splitlines()[1:] == [
        f"  {line}" for line in differences(promised("interleaved"), shown("direct"))
    ]


def broken(topology, *path_and_value):
    """The picture of `topology` with one value replaced."""
    *path, last, value = path_and_value
    picture = copy.deepcopy(promised(topology).to_json())
    place = picture
    for step in path:
        place = place[step]
    place[last] = value
    return from_json(json.dumps(picture))


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

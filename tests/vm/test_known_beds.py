"""Topologies that others use to try CXL (tests/beds, docs/topologies.md) boot and show what they promise; devices come and go."""

import json
from pathlib import Path

import pytest

from emulation.conformance import run as job
from emulation.conformance.truth import JobShape
from guest.provision import inspect

FOLDER = Path(__file__).parents[1] / "beds"
SMALL = JobShape(context_tokens=2048, num_layers=2, num_heads=2, top_k=256, num_steps=2, hot_buffer=300)


def each(*names):
    return [pytest.param(name, marks=pytest.mark.cxlbed(str(FOLDER / f"{name}.yaml")), id=name) for name in names]


# The others were booted when docs/topologies.md was written; what they need of the rules and of rendering is here too.
@pytest.mark.parametrize(
    "name", each("docs-interleave", "docs-figure", "ndctl-topology", "qtest-bridges", "address-order")
)
def test_a_known_topology_shows_what_it_promised(bed, name):
    for host in bed.topology.hosts:
        with bed.session(host.name) as session:
            shown = inspect(session)
        assert len(shown.memdevs) == len(bed.topology.devices_of(host))
        assert [region.committed for region in shown.regions] == [True] * len(host.regions)
        assert set(bed.host(host.name).stores) == {region.name for region in host.regions}


@pytest.mark.parametrize("name", each("docs-interleave"))
def test_the_main_job_is_right_on_persistent_memory(bed, name):
    results = job.run(bed, SMALL, None, print)
    assert len(results) == len(bed.topology.hosts[0].regions)
    assert [result.mismatches for result in results] == [[]] * len(results)


def test_a_device_comes_goes_and_comes_again_while_the_bed_is_up(cxlbed):
    assert cxlbed("up", str(FOLDER / "plugged-later.yaml")).returncode == 0

    def shown():
        memdevs = json.loads(cxlbed("exec", "plugged-later", "--", "cxl", "list", "-M").stdout)
        regions = json.loads(cxlbed("exec", "plugged-later", "--", "cxl", "list", "-R").stdout)
        return {memdev["serial"] for memdev in memdevs}, sorted(region["type"] for region in regions)

    assert "nvme0" in cxlbed("exec", "plugged-later", "--", "ls", "/sys/class/nvme").stdout
    assert shown() == ({1}, ["ram"])
    for _ in range(2):
        plugged = cxlbed("plug", "plugged-later", "comes")
        assert plugged.returncode == 0, plugged.stderr
        assert shown() == ({1, 2}, ["pmem", "ram", "ram"])
        unplugged = cxlbed("unplug", "plugged-later", "comes")
        assert unplugged.returncode == 0, unplugged.stderr
        assert shown() == ({1}, ["ram"])
    for arguments, problem in (
        (("plug", "plugged-later", "stays"), "device 'stays' is plugged already (not plugged: comes)"),
        (("unplug", "plugged-later", "stays"), "have no power control"),
        (("unplug", "plugged-later", "nobody"), "device 'nobody' is not plugged (plugged: stays)"),
    ):
        ended = cxlbed(*arguments)
        assert (ended.returncode, problem in ended.stderr) == (2, True), ended.stderr
    assert cxlbed("down", "plugged-later").returncode == 0

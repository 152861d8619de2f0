"""Topologies of QEMU's documentation and tests and of ndctl's tests, as bed files (tests/beds)."""

from pathlib import Path

import pytest

from emulation.machines.this_machine import any_machine
from qemu_configs.bedfile import load, parse
from qemu_configs.errors import BedFileError
from qemu_configs.picture import notes, picture_of
from tests.support.linux_cxl import Kernel

FOLDER = Path(__file__).parents[2] / "beds"
BEDS = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", BEDS, ids=lambda path: path.stem)
def test_a_known_topology_is_a_usable_bed_whose_regions_linux_makes(path):
    topology = load(path, any_machine())
    assert topology.name == path.stem
    for host in topology.hosts:
        kernel = Kernel(topology, host)
        for region in host.regions_by_address():
            kernel.create(region)
        assert len(picture_of(topology, host).windows) == len(host.windows)


def test_what_cannot_be_known_before_a_bed_is_up_is_noted():
    late, order = (load(FOLDER / f"{stem}.yaml") for stem in ("plugged-later", "address-order"))
    assert notes(late, late.hosts[0]) == (
        "device 'comes': is not there until it is plugged, nor are the regions over it",
        "qemu: -device nvme,serial=beside,bus=pcie.0,addr=6: passed as it is; whether QEMU takes it shows when the host starts",
    )
    assert notes(order, order.hosts[0]) == (
        "device 'big': sparse, so nobody looked whether what will be written to it has room here",
    )


def refused(stem, *edits):
    text = (FOLDER / f"{stem}.yaml").read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(BedFileError) as caught:
        parse(text)
    return str(caught.value)


def test_the_fifth_region_of_the_figure_takes_a_decoder_that_qemu_does_not_have():
    fifth = "      - {name: hdm4, window: cfmw1, devices: [m0, m2, m1, m3], size: 1G}\n"
    text = refused("docs-figure", ("768M", "1G"), ("size: 256M, serial: 3", "size: 512M, serial: 3"),
                   ("      - {name: other, window: cfmw2, devices: [m3]}\n", fifth))  # fmt: skip
    assert "bridge 'hb0': 5 regions pass through its 4 HDM decoders" in text


def test_the_bus_numbers_of_qemus_test_leave_no_room_for_the_ports():
    assert "bus=53 meets bridge 'cxl0', which needs buses 52 to 54" in refused(
        "qtest-four-devices", ("bus: 60", "bus: 53")
    )


def test_every_known_bed_stands_in_the_documentation_and_no_other():
    page = (FOLDER.parents[1] / "docs" / "topologies.md").read_text()
    rows = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert rows == {path.stem for path in BEDS}

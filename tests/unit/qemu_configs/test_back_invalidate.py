"""A device that claims coherence by hardware: what QEMU is told, and on which links."""

import pytest

from qemu_configs.bedfile import find, parse
from qemu_configs.picture import notes
from qemu_configs.render import qemu_argv


def claiming(name, serial):
    return parse(find(name).read_text().replace(f"serial: {serial}", f"serial: {serial}, back_invalidate: true"))


@pytest.mark.parametrize(("name", "serial", "device"), [("direct", "0xc0", "mem0"), ("shared-pool", "0x5ac1", "pool1")])
def test_the_device_and_the_links_to_it_carry_256_byte_flits(place, name, serial, device):
    topology = claiming(name, serial)
    for host in topology.hosts:
        words = qemu_argv(topology, host, place())
        (type3,) = [word for word in words if f"id={device}," in word]
        assert "hdm-db=on" in type3 and "x-256b-flit=on" in type3
        assert [word for word in words if "hdm-db" in word] == [type3]
        assert all("x-256b-flit=on" in word for word in words if word.startswith("cxl-upstream"))
        assert any("claims coherence by hardware" in note for note in notes(topology, host))


def test_other_beds_say_nothing_of_it_so_that_an_older_qemu_takes_them(place):
    topology = parse(find("shared-pool").read_text())
    assert not any("flit" in word or "hdm-db" in word for word in qemu_argv(topology, topology.hosts[0], place()))


def test_an_interleaved_region_is_noted_as_emulated_access_by_access():
    topology = parse(find("switched-4").read_text())
    assert [note.split(":")[0] for note in notes(topology, topology.hosts[0])] == ["region 'r0'"]

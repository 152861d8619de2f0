"""Stock beds whose devices grow: still beds by every rule, and the same but for sizes."""

import pytest

from qemu_configs.bedfile import load, stock_names
from qemu_configs.growth import grown
from qemu_configs.rules.bed import find_problems
from qemu_configs.topology import GIB, MIB


@pytest.mark.parametrize("name", stock_names())
def test_every_stock_bed_may_grow_and_obeys_every_rule(name):
    topology = load(name)
    larger = grown(topology, {device.name: 5 * GIB + 1 for device in topology.devices if device.size_bytes})
    assert find_problems(larger) == []
    for old, new in zip(topology.devices, larger.devices, strict=True):
        assert new.size_bytes == (5 * GIB + 256 * MIB if old.size_bytes else old.size_bytes)
        assert new.sparse or not old.size_bytes
        assert (new.name, new.serial, new.shared, new.profile) == (old.name, old.serial, old.shared, old.profile)
    for host in larger.hosts:
        for window in host.windows:
            inside = [region for region in host.regions if region.window == window.name]
            assert window.size_bytes >= sum(larger.region_size_bytes(region) for region in inside)


def test_what_is_large_enough_stays_as_it_is():
    topology = load("shared-pool")
    assert grown(topology, {}) == grown(topology, {"pool0": 1024 * MIB, "pool1": 1536 * MIB}) == topology

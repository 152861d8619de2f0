"""A dynamic-capacity device beside a running guest: the device's side works over QMP, the kernel's side is absent."""

import pytest

from emulation.machines.hypervisor import HypervisorError
from guest.provision import inspect
from qemu_configs import load
from qemu_configs.dynamic_capacity import Extent, add_capacity, release_capacity
from qemu_configs.render import notes

MIB = 1 << 20


@pytest.mark.cxlbed("dynamic-capacity")
def test_extents_are_offered_to_a_running_guest_which_leaves_them_offline_as_the_tool_says(bed):
    topology = load("dynamic-capacity")
    with bed.session("a") as session:
        before = inspect(session)
        command = add_capacity(topology, "mem0", 0, [Extent(0, 128 * MIB), Extent(256 * MIB, 64 * MIB)])
        bed.monitor("a", command)
        with pytest.raises(HypervisorError, match="pending"):
            bed.monitor("a", release_capacity(topology, "mem0", 0, [Extent(0, 128 * MIB)]))
        assert inspect(session) == before
    assert before.regions[0].size_bytes == 512 * MIB  # the ordinary part, and nothing of the dynamic one
    assert "stays offline" in notes(topology, topology.hosts[0])[0]

"""Every stock topology boots, shows what its bed file promises, and carries the main job where it has memory to carry it."""

from dataclasses import replace

import pytest

from emulation.conformance import run as job
from emulation.conformance.truth import JobShape
from emulation.machines.hypervisor import HypervisorError
from guest.provision import inspect
from qemu_configs.bedfile import stock_names
from qemu_configs.qmp.dynamic_capacity import Extent, add_capacity, release_capacity
from qemu_configs.topology import MIB

SMALL = JobShape(context_tokens=2048, num_layers=2, num_heads=2, top_k=256, num_steps=2, hot_buffer=300)


def each(names):
    return [pytest.param(name, marks=pytest.mark.cxlbed(name), id=name) for name in sorted(names)]


@pytest.mark.parametrize("name", each(stock_names()))
def test_a_stock_topology_boots_and_shows_what_it_promised(bed, name):
    # `up` compared the guest with the bed file's picture and would have failed; look again, at the counts.
    for host in bed.topology.hosts:
        with bed.session(host.name) as session:
            shown = inspect(session)
        assert len(shown.memdevs) == len(bed.topology.devices_of(host))
        assert len(shown.regions) == len(host.regions)
        assert set(bed.host(host.name).stores) >= {region.name for region in host.regions}


@pytest.mark.parametrize("name", each(stock_names()))
def test_the_main_job_is_right_on_every_memory(bed, name):
    _run_and_check(bed, "fp8")


@pytest.mark.parametrize("name", each(["interleaved", "remote-numa", "shared-pool"]))
def test_the_main_job_is_right_with_bf16_rows_on_each_kind_of_memory(bed, name):
    _run_and_check(bed, "bf16")


def _run_and_check(bed, rows):
    results = job.run(bed, replace(SMALL, rows=rows), None, print)
    assert results
    for result in results:
        assert result.mismatches == []
        assert result.entries_right == result.entries == 2 * 2 * 256
        assert result.fetched_rows >= 2 * 255  # the first step misses everything but the newest token


@pytest.mark.cxlbed("dynamic-capacity")
def test_dynamic_capacity_is_offered_over_qmp_and_the_bed_says_that_no_kernel_takes_it(bed):
    extent = [Extent(0, 64 * MIB)]
    with bed.session("a") as session:
        before = inspect(session)
        assert bed.monitor("a", add_capacity(bed.topology, "mem0", 0, extent)) == {}
        with pytest.raises(HypervisorError, match="pending"):
            bed.monitor("a", release_capacity(bed.topology, "mem0", 0, extent))
        assert inspect(session) == before
    (note,) = bed.notes()
    assert note.startswith("device 'mem0': dynamic capacity stays offline")

"""The bed file's drawing as links."""

from dataclasses import replace

import pytest

from emulation.errors import InputError
from emulation.timing.path import Transfer, bed_path, default_path
from emulation.timing.profile import load_profile
from qemu_configs.bedfile import load, stock_names
from qemu_configs.topology import Bridge, Device, Host, Switch, Topology

DEVICES = tuple(Device(name=f"d{i}", serial=i + 1, size=1 << 28, profile="cxl-direct-140") for i in range(2))


def host(name, bridges):
    return Host(name=name, bridges=bridges)


TWO_BRIDGES = Topology(
    name="interleaved",
    devices=DEVICES,
    hosts=(host("a", (Bridge(name="b0", bus=10, devices=("d0",)), Bridge(name="b1", bus=20, devices=("d1",)))),),
)
SWITCHED = Topology(
    name="pool",
    devices=(DEVICES[0], DEVICES[1]),
    hosts=tuple(
        host(name, (Bridge(name="b0", bus=10, switches=(Switch(name="s0", devices=("d0", "d1")),)),))
        for name in ("a", "b")
    ),
)


def test_interleaving_over_two_bridges_stripes_adapters_and_devices():
    path = bed_path(TWO_BRIDGES, "a", ["d0", "d1"], "gpu0")
    assert path.links == ("a.gpu0", "a.b0", "a.b1", "d0", "d1")
    assert [leg.share for leg in (*path.adapters, *path.stripes)] == [0.5] * 4
    one = bed_path(TWO_BRIDGES, "a", ["d0"], "gpu0")
    transfer = Transfer(1, 1 << 20)
    assert path.works_ns(transfer)[-1] == pytest.approx(one.works_ns(transfer)[-1] / 2)


def test_hosts_of_a_pool_share_its_devices_and_no_port():
    a, b = (bed_path(SWITCHED, name, ["d0"], "cpu0") for name in ("a", "b"))
    assert a.links == ("a.cpu0", "a.b0", "a.s0.d0", "d0")
    assert set(a.links) & set(b.links) == {"d0"}


def test_both_stripes_behind_one_switch_cross_one_adapter_whole():
    path = bed_path(SWITCHED, "a", ["d0", "d1"], "cpu0")
    assert [(leg.link, leg.share) for leg in path.adapters] == [("a.b0", 1.0)]


def test_devices_of_unlike_profiles_make_no_path():
    unlike = SWITCHED.model_copy(update={"devices": (DEVICES[0], DEVICES[1].model_copy(update={"profile": None}))})
    with pytest.raises(InputError, match="one path needs one profile"):
        bed_path(unlike, "a", ["d0", "d1"], "cpu0")


def test_a_device_that_the_host_lacks_is_named():
    with pytest.raises(InputError, match="host 'a': devices='d9' is not attached; it holds d0, d1"):
        bed_path(TWO_BRIDGES, "a", ["d9"], "cpu0")


def test_a_gpu_reads_the_same_devices_over_pcie():
    core, gpu = (bed_path(TWO_BRIDGES, "a", ["d0"], "r", read_by) for read_by in ("cpu", "gpu"))
    assert (gpu.links, gpu.stripes) == (core.links, core.stripes)
    assert gpu.profile.name == "cxl-direct-140@gpu"


@pytest.mark.parametrize("name", stock_names())
def test_every_stock_topology_has_a_path_to_each_of_its_devices(name):
    topology = load(name)
    for host in topology.hosts:
        for device in topology.devices_of(host):
            path = bed_path(topology, host.name, [device.name], "cpu0")
            assert path.links[-1] == device.name
            assert path.idle_ns(Transfer(1, 64)) >= path.profile.read_latency_ns
        for region in host.regions:
            assert bed_path(topology, host.name, region.devices, "cpu0")


@pytest.mark.parametrize(("way", "us"), [("non_temporal", 2.41), ("clflush", 8.50), ("uncached", 281.56)])
def test_16_kib_take_the_published_times_until_others_see_them(way, us):
    path = default_path(load_profile("cxl-switched-750"))
    assert path.publish_ns(16384, way) == round(us * 1e3)
    assert path.publish_ns(10 * 16384, way) == round(10 * us * 1e3)
    assert path.publish_ns(64, "non_temporal") == 750  # no less than one write


@pytest.mark.parametrize(("way", "us"), [("clflush", 5.98), ("uncached", 166.49)])
def test_bytes_in_a_row_are_read_fresh_in_the_published_time_and_slower_transfers_no_faster(way, us):
    pages, core = Transfer(1, 16384), load_profile("cxl-switched-750")
    streaming = default_path(replace(core, outstanding_bytes=1 << 20))
    assert streaming.fresh_read_ns(pages, way) == round(us * 1e3)
    random = default_path(core)
    assert random.fresh_read_ns(pages, way) == max(random.idle_ns(pages), round(us * 1e3))


def test_a_tier_of_one_host_has_no_coherence_to_pay_for():
    direct = default_path(load_profile("cxl-direct-140"))
    assert direct.publish_ns(64, "clflush") is None
    assert direct.fresh_read_ns(Transfer(1, 64), "clflush") is None

"""Recorded outputs of booted guests, one per stock topology (recorded/NAME.txt), parsed."""

from pathlib import Path

from guest import inventory

RECORDED = Path(__file__).parent / "recorded"


def shown(topology):
    return inventory.parse((RECORDED / f"{topology}.txt").read_text())


def test_devices_are_known_by_serial_whatever_the_kernel_numbers_them():
    memdevs = shown("interleaved-4").memdevs
    assert [memdev.serial for memdev in memdevs] == [0xC0, 0xC1, 0xC2, 0xC3]
    assert [memdev.name for memdev in memdevs] != ["mem0", "mem1", "mem2", "mem3"]


def test_an_interleaved_region_lists_its_serials_by_position():
    (region,) = shown("interleaved-4").regions
    assert region.serials == (0xC0, 0xC1, 0xC2, 0xC3)
    assert (region.ways, region.granularity_bytes, region.committed) == (4, 1024, True)


def test_a_window_lists_its_host_bridges_by_position():
    (window,) = shown("interleaved").root_decoders
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
    assert (local.cpus, remote.cpus) == ((0, 1), ())
    assert (remote.distance, remote.read_latency_ns, remote.read_bandwidth_mib_per_s) == (20, 142, 20480)
    assert remote.memory_bytes == 512 << 20


def test_a_guest_without_cxl_and_dax_parses_to_nothing():
    assert inventory.parse_cxl("", {}) == ((), (), ())
    assert inventory.parse_daxctl("") == {}

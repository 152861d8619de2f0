"""What regions take of devices and of the guest's own memory, against what Linux 6.12 gave and refused."""

import pytest
import yaml

from qemu_configs.bedfile import parse
from qemu_configs.errors import BedFileError
from qemu_configs.picture import picture_of

GIB = 1 << 30


def bed(devices, windows, regions, bridges=None, **host):
    """One host; devices: name -> keys; windows: names, all over bridge b unless `bridges` says others; regions: keys."""
    bridges = bridges or [{"name": "b", "bus": 12, "devices": list(devices)}]
    return yaml.safe_dump(
        {
            "name": "drawn",
            "devices": [{"name": name, "serial": n + 1, **keys} for n, (name, keys) in enumerate(devices.items())],
            "hosts": [
                {
                    "name": "a",
                    "bridges": bridges,
                    "windows": [{"name": name, "targets": ["b"], "size": "64G"} for name in windows],
                    "regions": [{"name": f"r{n}", **keys} for n, keys in enumerate(regions)],
                    **host,
                }
            ],
        },
        sort_keys=False,
    )


def problems_of(text):
    with pytest.raises(BedFileError) as caught:
        parse(text)
    return caught.value.problems


def made(text):
    """Names of the regions in the order in which the guest is told to make them."""
    topology = parse(text)
    return [region.name for region in picture_of(topology, topology.hosts[0]).regions]


ONE = {"size": "256M"}
TWO = {"size": "512M"}
MIXED = {"size": "512M", "persistent_size": "512M", "lsa_size": "1M"}


def test_regions_below_a_bridge_are_made_by_rising_address_whatever_the_order_of_the_file():
    regions = [{"window": "high", "devices": ["m0"]}, {"window": "low", "devices": ["m1"]}]
    assert made(bed({"m0": ONE, "m1": ONE}, ["low", "high"], regions)) == ["r1", "r0"]


def test_volatile_memory_of_a_device_is_given_out_before_its_persistent_memory():
    regions = [{"window": "w", "devices": ["m"], "mode": "pmem"}, {"window": "w", "devices": ["m"], "mode": "devdax"}]
    assert made(bed({"m": MIXED}, ["w"], regions)) == ["r1", "r0"]


def test_persistent_memory_below_volatile_memory_of_one_device_is_refused():
    regions = [{"window": "w0", "devices": ["m"], "mode": "pmem"}, {"window": "w1", "devices": ["m"]}]
    assert problems_of(bed({"m": MIXED}, ["w0", "w1"], regions)) == [
        "host 'a': device 'm': region 'r0' takes persistent memory in window 'w0', below volatile region 'r1' in 'w1'; Linux "
        "gives out windows by rising address and a device's volatile memory first (swap the regions' windows)"
    ]


def test_two_regions_share_a_device_and_more_than_it_has_is_refused():
    half = {"window": "w", "devices": ["m"], "size": "256M"}
    assert made(bed({"m": TWO}, ["w"], [half, half])) == ["r0", "r1"]
    assert problems_of(bed({"m": TWO}, ["w"], [half, half, half])) == [
        "host 'a': device 'm': regions 'r0', 'r1', 'r2' take 768M of its 512M of volatile memory "
        "(a region without size takes all: say sizes that fit, or drop one)"
    ]


def test_a_device_has_four_decoders():
    quarter = {"window": "w", "devices": ["m"], "size": "256M"}
    assert len(made(bed({"m": {"size": "1G"}}, ["w"], [quarter] * 4))) == 4
    assert "host 'a': device 'm': 5 regions take its 4 HDM decoders (use fewer, larger regions)" in problems_of(
        bed({"m": {"size": "2G"}}, ["w"], [quarter] * 5)
    )


def test_a_region_takes_whole_256_mib_of_each_device():
    region = {"window": "w", "devices": ["m0", "m1"], "size": "768M"}
    assert problems_of(bed({"m0": TWO, "m1": TWO}, ["w"], [region])) == [
        "host 'a': region 'r0': size_bytes=805306368 is not a multiple of 256 MiB for each of its devices (next: 1G)"
    ]


def test_devices_of_unequal_size_share_a_region_that_says_its_size():
    region = {"window": "w", "devices": ["m0", "m1"], "size": "512M"}
    assert made(bed({"m0": ONE, "m1": TWO}, ["w"], [region])) == ["r0"]


@pytest.mark.parametrize(
    ("device", "mode", "fix"),
    [
        (
            {"persistent_size": "256M", "lsa_size": "1M"},
            "devdax",
            "persistent memory only (say mode: pmem, or give the device some volatile)",
        ),
        (ONE, "pmem", "volatile memory only (say mode: devdax, or give the device some persistent)"),
    ],
)
def test_a_mode_that_the_devices_memory_is_not_for_is_refused(device, mode, fix):
    assert problems_of(bed({"m": device}, ["w"], [{"window": "w", "devices": ["m"], "mode": mode}])) == [
        f"host 'a': region 'r0': mode={mode}: device 'm' has {fix}"
    ]


def test_persistent_memory_needs_a_label_area_of_whole_pages():
    assert problems_of(bed({"m": {"persistent_size": "256M"}}, ["w"], [])) == [
        "device 'm': lsa_size is missing; QEMU gives no persistent memory without a label area (add lsa_size: 1M)"
    ]
    assert problems_of(bed({"m": {"persistent_size": "256M", "lsa_size": 5000}}, ["w"], [])) == [
        "device 'm': lsa_size_bytes=5000 is not a multiple of 4 KiB (next: 8K)"
    ]


@pytest.mark.parametrize(
    ("size", "mode", "least_mib"), [("16G", "system-ram", 384), ("4G", "system-ram", 192), ("64G", "devdax", 384)]
)
def test_the_guest_needs_memory_to_know_the_pages_of_its_regions(size, mode, least_mib):
    def text(mib):
        region = {"window": "w", "devices": ["m"], "mode": mode}
        return bed({"m": {"size": size, "sparse": True}}, ["w"], [region], memory=f"{mib}M")

    assert made(text(least_mib)) == ["r0"]
    (problem,) = problems_of(text(least_mib - 2))
    assert problem.startswith(
        f"host 'a': memory_bytes={(least_mib - 2) << 20} is too little to know the pages of its regions"
    )
    assert problem.endswith(f"(at least: {least_mib}M)")


def test_system_ram_smaller_than_a_block_of_a_large_host_is_refused():
    region = {"window": "w", "devices": ["m"], "mode": "system-ram"}
    assert made(bed({"m": ONE}, ["w"], [region], memory="61G"))
    assert "is less than a block of memory, 2 GiB" in problems_of(bed({"m": ONE}, ["w"], [region], memory="62G"))[0]


def test_a_region_that_is_made_when_its_device_is_plugged_lies_above_those_below_the_same_bridge():
    devices = {"m0": ONE, "late": ONE | {"plugged": False}}
    above = [{"window": "w0", "devices": ["m0"]}, {"window": "w1", "devices": ["late"]}]
    assert made(bed(devices, ["w0", "w1"], above)) == ["r0"]
    below = [{"window": "w1", "devices": ["m0"]}, {"window": "w0", "devices": ["late"]}]
    assert problems_of(bed(devices, ["w0", "w1"], below)) == [
        "host 'a': region 'r1': is made when its device is plugged, and window 'w0' lies below 'w1' of region 'r0'; "
        "Linux gives out the decoders of bridge 'b' by rising address (swap the windows)"
    ]


def test_a_switch_below_a_switch_is_refused_with_the_reason_and_drags_no_other_problem_along():
    inner = {"name": "sw1", "devices": ["m1"]}
    bridges = [{"name": "b", "bus": 12, "switches": [{"name": "sw0", "devices": ["m0"], "switches": [inner]}]}]
    (problem,) = problems_of(bed({"m0": ONE, "m1": ONE}, ["w"], [], bridges))
    assert problem.startswith("host 'a': switch 'sw0': switches: QEMU reaches no memory behind a second switch")


def test_free_ports_take_bus_numbers_and_a_host_may_have_no_device():
    bridges = [{"name": "b", "bus": 12, "free_ports": 2, "switches": [{"name": "sw", "free_ports": 3}]}]
    assert parse(bed({}, ["w"], [], bridges)).hosts[0].bridges[0].last_bus == 12 + 2 + 2 + 3
    assert parse("name: bare\nhosts: [{name: a}]\n").hosts[0].bridges == ()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["nvme"], "qemu: 'nvme' is no option; the first word starts with a dash (write it as: [-device, nvme])"),
        (
            ["-smp", "4"],
            "qemu: -smp is given by the testbed itself (use the bed file's keys, such as vcpus and memory)",
        ),
        (["-device", "a\nb"], "qemu: 'a\\nb' cannot stand on a command line (write printable text)"),
    ],
)
def test_words_for_qemu_are_options_that_the_testbed_does_not_give_itself(words, problem):
    assert problems_of(bed({"m": ONE}, ["w"], [], qemu=words)) == [f"host 'a': {problem}"]


def test_hosts_take_a_shared_devices_parts_alike_as_far_as_both_take_any():
    host = {
        "bridges": [{"name": "b", "bus": 12, "devices": ["m"]}],
        "windows": [{"name": "w", "targets": ["b"], "size": "4G"}],
    }
    half, rest = ({"window": "w", "devices": ["m"], "size": size} for size in ("256M", "768M"))

    def text(a, b):
        named = [[{"name": f"r{n}", **region} for n, region in enumerate(regions)] for regions in (a, b)]
        hosts = [{"name": name, **host, "regions": regions} for name, regions in zip("ab", named, strict=True)]
        return yaml.safe_dump(
            {"name": "x", "devices": [{"name": "m", "size": "1G", "serial": 1, "shared": True}], "hosts": hosts}
        )

    assert parse(text([half, rest], [half]))
    assert (
        "device 'm': host 'a' interleaves it as region 'r0' and host 'b' otherwise as 'r0'"
        in problems_of(text([half], [rest]))[0]
    )


def test_label_areas_of_persistent_regions_are_held_in_the_guests_memory():
    device = {"persistent_size": "256M", "lsa_size": "256M"}
    region = {"window": "w", "devices": ["m"], "mode": "pmem"}
    assert made(bed({"m": device}, ["w"], [region], memory="386M"))
    assert problems_of(bed({"m": device}, ["w"], [region], memory="384M"))[0].endswith("(at least: 386M)")
    assert not made(bed({"m": device}, ["w"], [], memory="128M"))

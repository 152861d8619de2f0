"""Each rule is broken on purpose in a stock bed file, and the one problem that results is read in full."""

import pytest

from qemu_configs.bedfile import find, load, parse
from qemu_configs.errors import BedFileError
from qemu_configs.rules.bed import Machine

GIB = 1 << 30


def problems_of(text, machine=None):
    with pytest.raises(BedFileError) as caught:
        parse(text, "bed.yaml", machine)
    return caught.value.problems


def edited(stock, *edits):
    text = find(stock).read_text()
    for old, new in edits:
        assert old in text, f"{stock} no longer holds {old!r}"
        text = text.replace(old, new)
    return text


LOCAL_ACCESS = (
    "    local_access:" + find("remote-numa").read_text().partition("local_access:")[2].partition("    numa_")[0]
)

# what is broken: (stock topology, edits, the problem in full)
BREACHES = {
    "unknown key": (
        "direct",
        [("vcpus: 1", "vcpu: 1")],
        "host 'a': vcpu=1 is not a known key (`cxlbed schema` lists them)",
    ),
    "size that is no size": (
        "direct",
        [("size: 1G", "size: 1Q")],
        "device 'mem0': size='1Q' is not a size (write 512M or 4G: a whole number with K, M, G or T)",
    ),
    "size of zero": (
        "direct",
        [("size: 1G", "size: 0")],
        "device 'mem0': size=0 is not a whole number from 1 on (write one)",
    ),
    "window size off the step": (
        "direct",
        [("size: 4G", "size: 3000000000")],
        "host 'a': window 'w0': size_bytes=3000000000 is not a multiple of 256 MiB (next: 3221225472)",
    ),
    "device size off the step": (
        "direct",
        [("size: 1G", "size: 100000000")],
        "device 'mem0': size_bytes=100000000 is not a multiple of 256 MiB (next: 268435456)",
    ),
    "window that does not divide among its targets": (
        "interleaved",
        [("size: 4G", "size: 4352M")],
        "host 'a': window 'w0': size_bytes=4563402752 is not a multiple of 256 MiB for each of its targets (next: 4608M)",
    ),
    "target that does not resolve": (
        "direct",
        [("targets: [cxl0]", "targets: [cxl7]")],
        "host 'a': window 'w0': targets: 'cxl7' does not resolve to a bridge of this host (known: 'cxl0')",
    ),
    "window of a region that does not resolve": (
        "direct",
        [("window: w0", "window: w7")],
        "host 'a': region 'r0': window='w7' does not resolve to a window of this host (known: 'w0')",
    ),
    "serial given twice": (
        "interleaved",
        [("0xc1", "0xc0")],
        "device 'mem1': serial=0xc0 is also device 'mem0''s (the guest finds a device by its serial; give each its own)",
    ),
    "serial that QEMU takes for none": (
        "direct",
        [("0xc0", "0xffffffffffffffff")],
        "device 'mem0': serial=18446744073709551615 is not a 64-bit number from 1 to 2^64-2 (choose one, such as 0x5ac0)",
    ),
    "bus number given twice": (
        "interleaved",
        [("bus: 64", "bus: 12")],
        "host 'a': bridge 'cxl1': bus=12 is also bridge 'cxl0''s (next: 14)",
    ),
    "bus number among those that another bridge's ports need": (
        "interleaved",
        [("bus: 64", "bus: 13")],
        "host 'a': bridge 'cxl1': bus=13 meets bridge 'cxl0', which needs buses 12 to 13 for its ports and devices "
        "(next: 14)",
    ),
    "bus number that leaves no room for the ports": (
        "switched",
        [("bus: 12", "bus: 252")],
        "host 'a': bridge 'cxl0': bus=252 with 5 buses ends at 256, above 255 (at most: 251)",
    ),
    "ways and targets that disagree": (
        "interleaved",
        [("targets: [cxl0, cxl1], ways: 2", "targets: [cxl0, cxl1], ways: 4")],
        "host 'a': window 'w0': ways=4 disagrees with 2 targets (list 4 targets or say ways: 2)",
    ),
    "ways and devices that disagree": (
        "interleaved",
        [("devices: [mem0, mem1], ways: 2", "devices: [mem0, mem1], ways: 8")],
        "host 'a': region 'r0': ways=8 disagrees with 2 devices (list 8 devices or say ways: 2)",
    ),
    "ways that CXL does not know": (
        "interleaved",
        [("devices: [mem0, mem1], ways: 2", "devices: [mem0, mem1], ways: 5")],
        "host 'a': region 'r0': ways=5 is no CXL interleave (one of 1, 2, 3, 4, 6, 8, 12, 16)",
    ),
    "granularity that CXL does not know": (
        "direct",
        [("size: 4G", "size: 4G, granularity: 300")],
        "host 'a': window 'w0': granularity_bytes=300 is no CXL granularity (one of 256, 512, 1K, 2K, 4K, 8K, 16K)",
    ),
    "granularity other than the interleaved window's": (
        "interleaved",
        [("ways: 2, granularity: 1K, mode", "ways: 2, granularity: 4K, mode")],
        "host 'a': region 'r0': granularity_bytes=4096 differs from window 'w0''s, which the guest refuses when a window "
        "interleaves (use 1024)",
    ),
    "window too small": (
        "shared-pool",
        [("size: 4G", "size: 1G"), ("windows: *windows", "windows: [{name: w0, targets: [cxl0], size: 4G}]")],
        "host 'a': window 'w0': size_bytes=1073741824 is too small for its regions, which need 3221225472 (at least: 3G)",
    ),
    "window beyond the guest's address space": (
        "direct",
        [("size: 4G", "size: 1T")],
        "host 'a': windows: 1100585369600 bytes of windows and memory pass the guest's address space of 1030792151040 "
        "(make a window smaller)",
    ),
    "window target listed twice": (
        "interleaved",
        [
            ("targets: [cxl0, cxl1], ways: 2", "targets: [cxl0, cxl0]"),
            ("{name: cxl1, bus: 64, devices: [mem1]}", "{name: cxl1, bus: 64}"),
            ("  - {name: mem1, size: 512M, serial: 0xc1, profile: cxl-direct-asic}\n", ""),
            (
                "    regions:\n      - {name: r0, window: w0, devices: [mem0, mem1], ways: 2, granularity: 1K, mode: devdax}\n",
                "",
            ),
            ("pools:\n  - {name: kv, devices: [mem0, mem1]}", ""),
        ],
        "host 'a': window 'w0': targets: 'cxl0' is listed more than once (QEMU maps it, no region can use it; list it once)",
    ),
    "no hosts": (
        "direct",
        [(find("direct").read_text().partition("devices:\n")[2], ""), ("devices:\n", "hosts: []\n")],
        "topology: hosts is empty; a bed has at least one host (add one with a bridge and a window)",
    ),
    "device without memory": (
        "dynamic-capacity",
        [("size: 512M, dc_size: 1G, dc_regions: 2, ", "")],
        "device 'mem0': size, persistent_size and dc_size are all missing; a device needs memory (add size: 512M)",
    ),
    "dynamic capacity that does not split": (
        "dynamic-capacity",
        [("dc_regions: 2", "dc_regions: 3")],
        "device 'mem0': dc_size_bytes=1073741824 does not split in dc_regions=3 regions of whole 256 MiB (next: 1536M)",
    ),
    "more dynamic regions than CXL has": (
        "dynamic-capacity",
        [("dc_regions: 2", "dc_regions: 9")],
        "device 'mem0': dc_regions=9 is outside 1 to 8 (choose one of them)",
    ),
    "region over dynamic capacity alone": (
        "dynamic-capacity",
        [("size: 512M, dc_size", "dc_size")],
        "host 'a': region 'r0': devices: 'mem0' has dynamic capacity only, which no stock kernel brings online "
        "(leave it out of regions; drive it over QMP)",
    ),
    "host name that libvirt cannot take": (
        "direct",
        [("- name: a\n", "- name: a/b\n")],
        "topology: hosts: name='a/b' is not a name for QEMU, libvirt and files alike "
        "(a small letter, then up to 31 small letters, digits and dashes)",
    ),
    "device in two regions": (
        "direct",
        [("regions:\n", "regions:\n      - {name: r9, window: w0, devices: [mem0]}\n")],
        "host 'a': device 'mem0': regions 'r9', 'r0' take 2G of its 1G of volatile memory (a region without size takes all: "
        "say sizes that fit, or drop one)",
    ),
    "devices in an order that the window does not reach": (
        "interleaved-4",
        [("devices: [mem0, mem2]", "devices: [mem2, mem1]"), ("devices: [mem1, mem3]", "devices: [mem0, mem3]")],
        "host 'a': region 'r0': devices: 'mem0' at position 0 is under bridge 'cxl1', where window 'w0' reaches "
        "'cxl0' (order the devices as its targets)",
    ),
    "devices of unequal size in one region": (
        "interleaved",
        [("mem1, size: 512M", "mem1, size: 256M")],
        "host 'a': region 'r0': devices: sizes 256M, 512M differ; interleaved devices are taken alike "
        "(make them equal, say the region's size, or use a region each)",
    ),
    "fewer devices than targets": (
        "interleaved",
        [
            ("window: w0, devices: [mem0, mem1], ways: 2", "window: w0, devices: [mem0]"),
            ("devices: [mem0, mem1]}", "devices: [mem0]}"),
        ],
        "host 'a': region 'r0': devices: 1 over the 2 targets of window 'w0' are not 1, 2, 4, 8 or 16 each "
        "(change the devices, or the window's targets)",
    ),
    "device that is attached nowhere": (
        "direct",
        [("hosts:", "  - {name: spare, size: 256M, serial: 9}\nhosts:")],
        "device 'spare': no host holds it (list it under a bridge or switch, or drop it)",
    ),
    "device that does not exist": (
        "direct",
        [("bus: 12, devices: [mem0]", "bus: 12, devices: [mem0, mem7]")],
        "host 'a': bridge 'cxl0': devices: 'mem7' is no device of this bed (known: 'mem0')",
    ),
    "device attached twice": (
        "direct",
        [("bus: 12, devices: [mem0]", "bus: 12, devices: [mem0, mem0]")],
        "host 'a': bridge 'cxl0': devices: 'mem0' already sits on bridge 'cxl0' (attach it once per host)",
    ),
    "device shared in fact, not in word": (
        "shared-pool",
        [("serial: 0x5ac1, shared: true", "serial: 0x5ac1")],
        "device 'pool1': shared=false and hosts 'a', 'b' hold it (say shared: true, or give each its own)",
    ),
    "device shared in word, not in fact": (
        "direct",
        [("serial: 0xc0", "serial: 0xc0, shared: true")],
        "device 'mem0': shared=true and host 'a' alone holds it (attach it to another host or drop shared)",
    ),
    "hosts that map a shared device differently": (
        "shared-pool",
        [("regions: *regions", "regions: [{name: r0, window: w0, devices: [pool0, pool1]}]")],
        "device 'pool0': host 'a' interleaves it as region 'r0' and host 'b' otherwise as 'r0' "
        "(give both the same devices, order, granularity and size)",
    ),
    "pool on system RAM": (
        "direct",
        [("mode: devdax", "mode: system-ram")],
        "pool 'kv': host 'a': region 'r0' has mode=system-ram, a pool needs devdax",
    ),
    "pool without a region": (
        "switched",
        [("      - {name: r0, window: w0, devices: [mem0], mode: devdax}\n", "")],
        "pool 'kv': host 'a': no region maps 'mem0' (add a region over it, mode: devdax)",
    ),
    "pool over half of an interleaved region": (
        "interleaved",
        [("{name: kv, devices: [mem0, mem1]}", "{name: kv, devices: [mem0]}")],
        "pool 'kv': host 'a': region 'r0' also spans 'mem1', which is not the pool's",
    ),
    "switch without devices": (
        "direct",
        [("bus: 12, devices: [mem0]", "bus: 12, devices: [mem0], switches: [{name: sw0}]")],
        "host 'a': switch 'sw0': 0 devices and free ports are outside 1 to 16 (list its devices, or say free_ports)",
    ),
    "NUMA nodes without the local figures": (
        "remote-numa",
        [(LOCAL_ACCESS, "")],
        "host 'a': local_access is missing; the HMAT needs node 0 beside numa_nodes (add its latencies and bandwidths)",
    ),
    "latency that the HMAT cannot hold": (
        "remote-numa",
        [("read_latency_ns: 142", "read_latency_ns: 70000")],
        "host 'a': numa node 'remote': access: read_latency_ns=70000 does not fit the HMAT (1 to 65534)",
    ),
    "distance nearer than local": (
        "remote-numa",
        [("distance: 20", "distance: 9")],
        "host 'a': numa node 'remote': distance=9 is outside 11 to 254 (10 is local; 20 is usual)",
    ),
    "memory too small to boot": (
        "direct",
        [("memory: 1G", "memory: 64M")],
        "host 'a': memory_bytes=67108864 is not a multiple of 2 MiB from 128M on (next: 128M)",
    ),
    "more vCPUs than QEMU gives": (
        "direct",
        [("vcpus: 1", "vcpus: 300")],
        "host 'a': vcpus=300 is outside 1 to 255 (2 suit a small machine)",
    ),
    "key given twice": (
        "direct",
        [("name: direct", "name: direct\nname: other")],
        "line 3: key 'name' stands twice in one place (keep one)",
    ),
    "missing key": ("direct", [(", bus: 12", "")], "host 'a': bridge 'cxl0': bus is missing (add it)"),
    "mode that does not exist": (
        "direct",
        [("mode: devdax", "mode: fsdax")],
        "host 'a': region 'r0': mode='fsdax' is none of 'devdax', 'system-ram', 'pmem' (write one)",
    ),
    "name that is a truth value": (
        "direct",
        [("name: w0", "name: true")],
        "host 'a': window number 1: name=true is not text (put it in quotes)",
    ),
    "list that is a word": (
        "direct",
        [("devices: [mem0], mode", "devices: mem0, mode")],
        "host 'a': region 'r0': devices='mem0' is not a list (write it in brackets: [a, b])",
    ),
    "number in the base of clocks": (
        "direct",
        [("bus: 12", "bus: 1:30")],
        "host 'a': bridge 'cxl0': bus='1:30' is not a whole number (write one, without quotes)",
    ),
    "number with a leading zero": (
        "direct",
        [("bus: 12", "bus: 012")],
        "line 11: 012 starts with 0: octal to some readers of YAML, decimal to others "
        "(write 12, or 0o12 for octal, or '012' for text)",
    ),
}

BROKEN_IN_TWO_PLACES = {
    "devices in an order that the window does not reach",
    "hosts that map a shared device differently",
}
REST_UNCHECKED = "bed file: rules between its parts were not checked (mend the above, then check again)"


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_named_with_owner_field_value_rule_and_fix(breach):
    stock, edits, problem = BREACHES[breach]
    assert problem in problems_of(edited(stock, *edits))


@pytest.mark.parametrize("breach", [name for name in BREACHES if name not in BROKEN_IN_TWO_PLACES])
def test_a_breach_is_reported_once_and_drags_no_others_along(breach):
    stock, edits, problem = BREACHES[breach]
    assert set(problems_of(edited(stock, *edits))) <= {problem, REST_UNCHECKED}


def test_a_missing_number_does_not_keep_the_rules_from_the_rest():
    found = problems_of(edited("interleaved", (", bus: 64", ""), ("0xc1", "0xc0")))
    assert found[0] == "host 'a': bridge 'cxl1': bus is missing (add it)"
    assert found[1].startswith("device 'mem1': serial=0xc0 is also device 'mem0''s")
    assert len(found) == 2


def test_all_problems_of_a_file_are_found_at_once():
    text = edited(
        "shared-pool",
        ("size: 4G", "size: 100M"),
        ("serial: 0x5ac1", "serial: 0x5ac0"),
        ("targets: [cxl0]", "targets: [cxl9]"),
        ("profile: cxl-switched-750", "colour: red"),
        ("vcpus: 1", "vcpus: two"),
    )
    found = "\n".join(problems_of(text))
    assert all(word in found for word in ("104857600", "0x5ac0", "cxl9", "colour", "vcpus"))


def test_more_memory_than_the_machine_has_is_refused_and_just_enough_is_not():
    needed = 5 * GIB  # two hosts of 1 GiB, two devices of 1.5 GiB that count once
    text = find("shared-pool").read_text()
    assert parse(text, machine=Machine(needed, 1)).memory_needed_bytes() == needed
    assert problems_of(text, Machine(needed - 1, 1)) == [
        "topology 'shared-pool': 5368709120 bytes of hosts and devices are more memory than the machine has "
        "(5368709119; take 256M off some memory or size, or say sparse: true of a device that will not be written whole)"
    ]


def test_a_sparse_device_asks_no_memory_of_the_machine():
    text = edited(
        "direct", ("size: 1G, serial", "size: 256G, sparse: true, serial"), ("size: 4G", "size: 256G"), ("1G\n", "2G\n")
    )
    assert parse(text, machine=Machine(2 * GIB, 1)).memory_needed_bytes() == 2 * GIB


def test_rules_of_others_who_read_bed_files_are_told_with_ours():
    text = edited("direct", ("size: 4G", "size: 100M"))
    found = problems_of(text, Machine(more_rules=(lambda topology: [f"{topology.name}: not my colour"],)))
    assert found[0].startswith("host 'a': window 'w0': size_bytes=104857600")
    assert found[-1] == "direct: not my colour"


def test_a_host_node_that_the_machine_lacks_is_refused_and_one_it_has_is_not():
    text = edited("remote-numa", ("distance: 20", "distance: 20\n        host_node: 1"))
    assert parse(text, machine=Machine(64 * GIB, 2)).hosts[0].numa_nodes[0].host_node == 1
    assert problems_of(text, Machine(64 * GIB, 1)) == [
        "host 'a': numa node 'remote': host_node=1 is no NUMA node of this machine "
        "(nodes: 0 to 0; leave host_node out to let the machine choose)"
    ]


def test_every_stock_topology_is_usable():
    for stock in ("direct", "interleaved", "interleaved-4", "switched", "switched-4", "shared-pool"):
        assert load(stock).name == stock
    assert load("dynamic-capacity").devices[0].dc_size_bytes == GIB
    assert load("remote-numa").hosts[0].numa_nodes[0].access.read_latency_ns == 142


def test_a_shared_pool_device_holds_61_layers_of_16k_tokens_of_704_bytes():
    assert all(device.size_bytes > 61 * 16384 * 704 + (64 << 20) for device in load("shared-pool").devices)

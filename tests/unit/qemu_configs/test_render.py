import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from guest.agent.lane import REGION_BYTES
from qemu_configs.bedfile import find, load, parse, stock_names
from qemu_configs.errors import BedFileError
from qemu_configs.picture import from_json, picture_of
from qemu_configs.render import EXCHANGE_BYTES, domain_xml, qemu_argv
from qemu_configs.topology import MIB, Topology

GOLDEN = Path(__file__).parent / "golden"
QEMU_ARG = "{http://libvirt.org/schemas/domain/qemu/1.0}arg"
EVERY_HOST = [(stock, host.name) for stock in stock_names() for host in load(stock).hosts]


def rendered(stock, host_name, form, placement):
    topology = load(stock)
    host = topology.host(host_name)
    match form:
        case "xml":
            return domain_xml(topology, host, placement) + "\n"
        case "argv":
            return "\n".join(qemu_argv(topology, host, placement)) + "\n"
        case "json":
            return json.dumps(picture_of(topology, host).to_json(), indent=2) + "\n"


@pytest.mark.parametrize(("stock", "host"), EVERY_HOST)
@pytest.mark.parametrize("form", ["xml", "argv", "json"])
def test_a_stock_topology_renders_as_its_golden_file(stock, host, form, place, update_golden):
    golden = GOLDEN / f"{stock}-{host}.{form}"
    text = rendered(stock, host, form, place())
    if update_golden:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text(), (
        f"{golden.name} differs; if meant so: pytest {Path(__file__).parent} --update-golden"
    )


def test_no_golden_file_is_left_over():
    expected = {f"{stock}-{host}.{form}" for stock, host in EVERY_HOST for form in ("xml", "argv", "json")}
    assert {path.name for path in GOLDEN.iterdir()} == expected


@pytest.mark.parametrize(("stock", "host"), EVERY_HOST)
def test_libvirt_is_handed_the_same_cxl_words_as_plain_qemu(stock, host, place):
    xml = ET.fromstring(rendered(stock, host, "xml", place()))
    words = [arg.get("value") for arg in xml.iter(QEMU_ARG)]
    argv = rendered(stock, host, "argv", place()).splitlines()
    assert words
    assert argv[-len(words) :] == words


def test_names_and_paths_with_markup_reach_libvirt_unharmed(place):
    topology = load("direct")
    hostile = place(domain_name="a & <b>", kernel_cmdline="x='1' \"2\" <&>", backing_folder=Path("/dev/shm/<&'\">"))
    xml = ET.fromstring(domain_xml(topology, topology.hosts[0], hostile))
    assert xml.findtext("name") == "a & <b>"
    assert xml.findtext("os/cmdline") == "x='1' \"2\" <&>"
    assert any("mem-path=/dev/shm/<&'\">/mem0.mem" in arg.get("value") for arg in xml.iter(QEMU_ARG))


def test_a_comma_in_a_path_is_doubled_for_qemu(place):
    topology = load("direct")
    argv = qemu_argv(topology, topology.hosts[0], place(backing_folder=Path("/beds/a,b")))
    assert any("mem-path=/beds/a,,b/mem0.mem" in word for word in argv)


def test_hosts_that_share_a_device_are_given_one_file(place):
    topology = load("shared-pool")
    files = [
        re.findall(r"mem-path=([^,\s]+)\.mem", " ".join(qemu_argv(topology, host, place(domain_name=host.name))))
        for host in topology.hosts
    ]
    assert files[0] == files[1] == [f"{place().backing_folder}/{device.name}" for device in topology.devices]


def test_each_host_has_exchange_memory_of_its_own_as_large_as_the_agents_lanes(place):
    topology = load("shared-pool")
    words = [" ".join(qemu_argv(topology, host, place(domain_name=host.name))) for host in topology.hosts]
    files = [re.findall(r"mem-path=([^,\s]+\.exchange)", each) for each in words]
    assert [Path(path).name for each in files for path in each] == ["a.exchange", "b.exchange"]
    assert EXCHANGE_BYTES == REGION_BYTES
    assert all(
        f"size={EXCHANGE_BYTES // MIB}M,mem-path={path}" in each for each, (path,) in zip(words, files, strict=True)
    )


def test_kvm_changes_the_accelerator_alone(place):
    tcg = rendered("direct", "a", "argv", place())
    kvm = rendered("direct", "a", "argv", place(accelerator="kvm"))
    assert kvm == tcg.replace("tcg,thread=multi", "kvm")
    assert rendered("direct", "a", "xml", place(accelerator="kvm")).startswith("<domain type='kvm'")


def test_a_chosen_host_node_binds_the_remote_node_in_both_forms(place):
    topology = parse(find("remote-numa").read_text().replace("distance: 20", "host_node: 1"))
    host = topology.hosts[0]
    memnode = ET.fromstring(domain_xml(topology, host, place())).find("numatune/memnode")
    assert memnode.attrib == {"cellid": "1", "mode": "strict", "nodeset": "1"}
    assert "memory-backend-ram,id=dram.1,size=512M,host-nodes=1,policy=bind" in qemu_argv(topology, host, place())


def test_a_chosen_host_node_binds_a_host_without_numa_nodes_in_both_forms(place):
    topology = parse(find("direct").read_text().replace("memory: 1G", "memory: 1G\n    host_node: 1"))
    host = topology.hosts[0]
    assert ET.fromstring(domain_xml(topology, host, place())).find("numatune/memnode").get("nodeset") == "1"
    assert "memory-backend-ram,id=dram.0,size=1024M,host-nodes=1,policy=bind" in qemu_argv(topology, host, place())


def test_the_picture_of_a_switch_names_bridge_switch_and_serial():
    topology = load("shared-pool")
    memdevs = picture_of(topology, topology.host("b")).memdevs
    assert [(memdev.serial, memdev.host_bridge, memdev.switch) for memdev in memdevs] == [
        (0x5AC0, "pci0000:0c", "sw0"),
        (0x5AC1, "pci0000:0c", "sw0"),
    ]


@pytest.mark.parametrize(("stock", "host"), EVERY_HOST)
def test_a_picture_is_read_as_it_was_written(stock, host):
    topology = load(stock)
    picture = picture_of(topology, topology.host(host))
    assert from_json(json.dumps(picture.to_json())) == picture


def test_a_picture_with_a_key_of_another_type_is_refused_by_name():
    topology = load("direct")
    values = picture_of(topology, topology.hosts[0]).to_json()
    values["memdevs"][0]["serial"] = "no number"
    with pytest.raises(ValueError, match=r"memdevs\.0\.serial"):
        from_json(json.dumps(values))


def test_the_picture_says_that_dynamic_capacity_stays_offline():
    topology = load("dynamic-capacity")
    (note,) = picture_of(topology, topology.hosts[0]).notes
    assert note == "device 'mem0': dynamic capacity stays offline (no stock Linux up to 7.3 takes its extents)"


@pytest.mark.parametrize(("stock", "host"), EVERY_HOST)
def test_qemu_takes_every_stock_topology(stock, host, tell_qemu):
    topology = load(stock)
    done = tell_qemu(topology, topology.host(host))
    assert (done.returncode, done.stderr) == (0, "")


QEMU_REFUSES = {
    "window size": ("direct", [("size: 4G", "size: 100M")]),
    "target": ("direct", [("targets: [cxl0]", "targets: [cxl7]")]),
    "granularity": ("direct", [("size: 4G", "size: 4G, granularity: 300")]),
    "address space": ("direct", [("size: 4G", "size: 1T")]),
    "bus number": ("interleaved", [("bus: 64", "bus: 12")]),
    "dynamic regions": ("dynamic-capacity", [("dc_regions: 2", "dc_regions: 3")]),
    "no memory": ("dynamic-capacity", [("size: 512M, dc_size: 1G, dc_regions: 2, ", "")]),
    "latency": (
        "remote-numa",
        [("read_latency_ns: 80", "read_latency_ns: 91"), ("read_latency_ns: 142", "read_latency_ns: 100000")],
    ),
    "distance": ("remote-numa", [("distance: 20", "distance: 300")]),
    "vcpus": ("direct", [("vcpus: 1", "vcpus: 5000")]),
}


@pytest.mark.parametrize("fault", QEMU_REFUSES)
def test_what_qemu_refuses_in_its_own_words_the_rules_refuse_first(fault, tell_qemu):
    stock, edits = QEMU_REFUSES[fault]
    text = find(stock).read_text()
    for old, new in edits:
        text = text.replace(old, new)
    with pytest.raises(BedFileError):
        parse(text)
    topology = Topology.model_validate(yaml.safe_load(text))  # the model alone, no rules
    done = tell_qemu(topology, topology.hosts[0])
    assert done.returncode != 0
    assert done.stderr


def test_a_privileged_daemon_is_told_whom_to_run_qemu_as_and_no_other_is(place):
    topology = load("direct")
    assert "seclabel" not in domain_xml(topology, topology.host("a"), place())
    theirs = ET.fromstring(domain_xml(topology, topology.host("a"), place(run_as="+1000:+1000")))
    assert theirs.find("seclabel[@model='dac']/label").text == "+1000:+1000"

"""Who takes part in a job: it follows from the bed's pools, whatever else the bed holds."""

import pytest
import yaml

from emulation.conformance.places import places_of
from emulation.errors import InputError
from qemu_configs.bedfile import load, parse


def host(name, *regions, **keys):
    """regions: (name, device, mode)."""
    return {
        "name": name,
        "bridges": [{"name": "c", "bus": 12, "devices": list(dict.fromkeys(device for _, device, _ in regions))}],
        "windows": [{"name": "w", "targets": ["c"], "size": "16G"}],
        "regions": [{"name": n, "window": "w", "devices": [device], "mode": mode} for n, device, mode in regions],
        **keys,
    }


def bed(hosts, pools=(), **devices):
    """devices: name -> its keys beside name and serial."""
    listed = [{"name": name, "serial": n + 1, **keys} for n, (name, keys) in enumerate(devices.items())]
    return parse(yaml.safe_dump({"name": "x", "devices": listed, "hosts": hosts, "pools": list(pools)}))


def roles(topology):
    return [(p.writer, p.writer_name, p.reader, p.reader_name, p.size_bytes >> 20) for p in places_of(topology)]


SHARED, SMALL = {"size": "1G", "shared": True}, {"size": "256M"}
POOL = {"name": "kv", "devices": ["p"]}


def test_a_small_region_outside_the_pool_takes_no_part():
    hosts = [host("a", ("r0", "p", "devdax"), ("r1", "x", "system-ram")), host("b", ("q", "p", "devdax"))]
    assert roles(bed(hosts, [POOL], p=SHARED, x=SMALL)) == [("a", "r0", "b", "q", 1024)]


def test_hosts_outside_the_pool_take_no_part_wherever_they_stand():
    hosts = [host("client", ("r", "x", "devdax")), *(host(n, ("r0", "p", "devdax")) for n in "ab"), host("bare")]
    assert roles(bed(hosts, [POOL], p=SHARED, x=SMALL)) == [("a", "r0", "b", "r0", 1024)]


def test_a_pool_names_its_writer_and_its_reader():
    hosts = [host(name, ("r0", "p", "devdax")) for name in "abc"]
    named = bed(hosts, [POOL | {"writer": "c", "reader": "b"}], p=SHARED)
    assert roles(named) == [("c", "r0", "b", "r0", 1024)]


def test_each_pool_has_roles_of_its_own():
    hosts = [host("a", ("r", "p", "devdax")), host("b", ("r", "p", "devdax"), ("s", "q", "devdax"))]
    topology = bed(hosts, [POOL, {"name": "mine", "devices": ["q"]}], p=SHARED, q=SMALL)
    assert roles(topology) == [("a", "r", "b", "r", 1024), ("b", "s", "b", "s", 256)]


def test_without_a_pool_the_first_host_that_has_memory_uses_all_of_it():
    hosts = [host("bare"), host("a", ("r0", "x", "devdax"), ("r1", "y", "system-ram"))]
    assert roles(bed(hosts, x=SMALL, y=SMALL)) == [("a", "r0", "a", "r0", 256), ("a", "r1", "a", "r1", 256)]


def test_a_namespace_takes_2_mib_of_persistent_memory_and_an_unplugged_device_is_not_there():
    hosts = [host("a", ("r0", "x", "pmem"), ("r1", "y", "devdax"))]
    topology = bed(hosts, x={"persistent_size": "256M", "lsa_size": "1M"}, y=SMALL | {"plugged": False})
    assert roles(topology) == [("a", "r0", "a", "r0", 254)]


def test_a_bed_without_regions_is_refused_with_what_it_lacks():
    with pytest.raises(
        InputError, match=r"^bed 'x': has no memory that a runtime can map \(neither region nor NUMA node; ord"
    ):
        places_of(bed([host("a") | {"bridges": [{"name": "c", "bus": 12, "devices": ["x"]}]}], x=SMALL))


@pytest.mark.parametrize("name", ["direct", "shared-pool", "interleaved-4", "remote-numa", "switched"])
def test_every_stock_bed_has_memory_that_takes_part(name):
    assert places_of(load(name))

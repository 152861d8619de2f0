"""Which profile times a device of a bed, and what is told of it before anything boots."""

import pytest
import yaml

from emulation.machines.this_machine import any_machine
from emulation.timing.bed_profiles import profile_of, profiles_of
from emulation.timing.profile_folders import PROFILE_FOLDER
from qemu_configs.bedfile import load, parse
from qemu_configs.errors import BedFileError
from qemu_configs.topology import Switch


def bed(profiles, switched=False, region=True):
    names = [f"m{n}" for n in range(len(profiles))]
    devices = [{"name": n, "size": "256M", "serial": i + 1} for i, n in enumerate(names)]
    devices = [d | ({"profile": p} if p else {}) for d, p in zip(devices, profiles, strict=True)]
    below = {"switches": [{"name": "s", "devices": names}]} if switched else {"devices": names}
    regions = [{"name": "r0", "window": "w", "devices": names}] if region else []
    host = {
        "name": "a",
        "bridges": [{"name": "b", "bus": 12, **below}],
        "windows": [{"name": "w", "targets": ["b"], "size": "4G"}],
        "regions": regions,
    }
    return yaml.safe_dump({"name": "x", "devices": devices, "hosts": [host]})


def problems_of(text, **where):
    with pytest.raises(BedFileError) as caught:
        parse(text, "bed.yaml", any_machine(), **where)
    return caught.value.problems


def test_a_device_without_a_profile_has_that_of_the_place_where_it_sits():
    for switched, name in ((False, "cxl-direct-asic"), (True, "cxl-switched-220")):
        topology = parse(bed([None], switched), machine=any_machine())
        (place,) = topology.hosts[0].attachments()
        assert profile_of(topology, place) == name


def test_two_profiles_in_one_region_are_refused_and_in_two_regions_are_not():
    two = ["cxl-direct-asic", "cxl-direct-cz120"]
    assert problems_of(bed(two)) == [
        "host 'a': region 'r0': profiles of its devices differ: m0 cxl-direct-asic, m1 cxl-direct-cz120; the path to a region is "
        "timed by one (give its devices the same profile, or a region each)"
    ]
    assert parse(bed(two, region=False), machine=any_machine())
    assert parse(bed(["cxl-direct-asic", None]), machine=any_machine())
    (problem,) = problems_of(bed(["cxl-direct-140", None], switched=True))
    assert "m0 cxl-direct-140, m1 cxl-switched-220 (by default)" in problem


def test_a_region_over_both_places_without_any_profile_has_the_slower_default():
    topology = parse(bed([None, None]), machine=any_machine())
    host = topology.hosts[0]
    bridge = host.bridges[0].model_copy(update={"devices": ("m0",), "switches": (Switch(name="s", devices=("m1",)),)})
    both = host.model_copy(update={"bridges": (bridge,)})
    assert profiles_of(topology, both, ["m0", "m1"]) == ("cxl-switched-220",)
    assert profiles_of(topology, both, ["m0"]) == ("cxl-direct-asic",)


@pytest.mark.parametrize("name", ["rdma-100g", "dram-pond-intel", "numa-pond-intel", "sac-gpu-dram"])
def test_a_profile_of_another_tier_is_refused(name):
    (problem,) = problems_of(bed([name]))
    assert problem.startswith(
        f"device 'm0': profile='{name}': is of tier {name.split('-')[0].replace('sac', 'dram')}, "
    )


def test_a_profile_that_nobody_has_or_that_is_faulty_is_told_with_all_its_findings(tmp_path):
    assert "name='nobodys' is unknown; take one of cxl-direct-140" in problems_of(bed(["nobodys"]))[0]
    faulty = (PROFILE_FOLDER / "cxl-direct-140.yaml").read_text().replace("tier: cxl", "tier: tape") + "colour: red\n"
    (tmp_path / "mine.yaml").write_text(faulty)
    found = problems_of(bed(["mine.yaml"]), folder=tmp_path)
    assert len(found) == 2
    assert all(problem.startswith(f"device 'm0': profile='{tmp_path}/mine.yaml': profile ") for problem in found)


def test_a_profiles_path_starts_from_the_bed_file(tmp_path, monkeypatch):
    (tmp_path / "beds").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = (PROFILE_FOLDER / "cxl-direct-140.yaml").read_text()
    for profile, place in (("mine.yaml", "beds/mine.yaml"), ("../theirs.yml", "theirs.yml")):
        (tmp_path / place).write_text(text)
        (tmp_path / "beds" / "bed.yaml").write_text(bed([profile]))
        topology = load("../beds/bed.yaml", any_machine())
        assert topology.devices[0].profile.endswith(profile)
        assert topology.devices[0].profile.startswith(str(tmp_path))


def test_a_profiles_path_may_start_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text((PROFILE_FOLDER / "cxl-direct-140.yaml").read_text())
    assert parse(bed(["~/mine.yaml"]), machine=any_machine()).devices[0].profile == str(tmp_path / "mine.yaml")

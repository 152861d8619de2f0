"""Profile files: what is in them, and what is said of a bad one."""

import pytest

from emulation.errors import InputError
from emulation.timing.profile import latency_factor, load_profile, parse_profile
from emulation.timing.profile_folders import PROFILE_FOLDER, profile_names

GOOD = (PROFILE_FOLDER / "cxl-switched-220.yaml").read_text()


@pytest.mark.parametrize("name", profile_names())
def test_every_figure_of_every_profile_has_a_source(name):
    profile = load_profile(name)
    assert profile.name == name
    assert len(profile.sources) == 8 + 8 + 1 + (1 + 3 + 2 if profile.coherence else 0)
    for source in profile.sources.values():
        assert len(source) > 5


def test_no_tier_lacks_a_profile():
    assert {load_profile(name).tier for name in profile_names()} == {"dram", "numa", "cxl", "rdma"}


def test_a_user_adds_a_profile_by_file_and_by_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(GOOD.replace("cxl-switched-220", "mine").replace("value: 220", "value: 333"))
    assert load_profile(str(tmp_path / "mine.yaml")).read_latency_ns == 333
    monkeypatch.setenv("CXLBED_PROFILES", str(tmp_path))
    assert "mine" in profile_names()
    assert load_profile("mine").read_latency_ns == 333


def test_all_findings_in_a_file_are_told_at_once():
    bad = GOOD.replace("op_ns:", "ops_ns:").replace("value: 220", "value: -3").replace("tier: cxl", "tier: optane")
    with pytest.raises(InputError) as caught:
        parse_profile(bad, "bad.yaml")
    lines = str(caught.value).splitlines()
    assert [line.replace(" is missing", "=").split("=")[0] for line in lines] == [
        "profile bad.yaml: ops_ns",
        "profile bad.yaml: op_ns",
        "profile bad.yaml: tier",
        "profile bad.yaml: read_latency_ns",
        "profile bad.yaml: write_latency_ns",
    ]
    assert "unknown key; known are" in lines[0]
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{value: 220, source", "{value: 220.5, source", "whole number"),
        ("loaded_latency: {value: [[0, 1]", "loaded_latency: {value: [[0, 2]", "starts at [0, 1]"),
        ("  read_bytes_per_ns: {value: 16,", "  read_bytes_per_ns: {value: 0,", "above 0"),
        ("num_devices: {value: 2, source", "num_devices: {value: 2, sauce", "must be {value: ..., source: ...}"),
        ("reader:\n", "reader: 3\nreaders:\n", "must hold read_bytes_per_ns and write_bytes_per_ns"),
    ],
)
def test_a_bad_figure_is_named_with_its_rule(old, new, said):
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        parse_profile(GOOD.replace(old, new), "bad.yaml")
    assert said in str(caught.value)


def test_a_tier_read_by_a_gpu_takes_the_gpu_s_reader_and_adds_its_latency():
    core, gpu, dram = (load_profile(name) for name in ("cxl-switched-750", "cxl-switched-750@gpu", "sac-gpu-dram"))
    assert (gpu.name, gpu.tier, gpu.read_by) == ("cxl-switched-750@gpu", "cxl", "gpu")
    assert gpu.read_latency_ns == 750 + dram.read_latency_ns
    assert (gpu.reader, gpu.setup_ns, gpu.outstanding_bytes) == (dram.reader, dram.setup_ns, dram.outstanding_bytes)
    assert (gpu.device, gpu.loaded_latency, gpu.op_ns) == (core.device, core.loaded_latency, core.op_ns)
    with pytest.raises(InputError, match="take it without @gpu"):
        load_profile("sac-gpu-cxl@gpu")


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "{}"])
def test_what_is_no_profile_at_all_is_refused(text):
    with pytest.raises(InputError):
        parse_profile(text, "bad.yaml")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"take one of .*cxl-switched-220"):
        load_profile("cxl-switched-221")
    with pytest.raises(InputError, match="No such file"):
        load_profile("nowhere.yaml")


def test_the_latency_curve_is_straight_between_its_points_and_flat_outside():
    curve = ((0.0, 1.0), (0.4, 1.0), (0.8, 3.0))
    assert [latency_factor(curve, load) for load in (0.0, 0.4, 0.5, 0.6, 0.8, 1.0)] == pytest.approx(
        [1, 1, 1.5, 2, 3, 3]
    )

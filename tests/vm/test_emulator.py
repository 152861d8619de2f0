"""Our own emulator on a mirror and under a bed: what an update of its version must pass."""

import json
from pathlib import Path

import pytest

from emulation.machines.emulator import own
from emulation.machines.emulator.choice import DIRECT_MAP_QEMU, choose
from emulation.machines.emulator.recipe import OWN


@pytest.fixture(scope="module")
def ours():
    return choose("bundled", True, print)


def test_the_recipes_version_is_the_one_that_the_mirror_offers():
    assert own.offered_version() == OWN.version, "change VERSION in emulation/machines/emulator/recipe.py"


def test_ours_maps_memory_directly_and_is_whole(ours):
    assert ours.version >= DIRECT_MAP_QEMU
    own.ensure(print).verify()


def test_a_bed_runs_with_ours_alone_and_says_so(cxlbed, state_folder, ours, tmp_path):
    """No file of the machine's QEMU, its modules, libraries or loader is in the process, and `status` names ours."""
    assert cxlbed("up", "direct", "--emulator", "bundled").returncode == 0
    try:
        (bed,) = json.loads(cxlbed("status", "--json", "-").stdout)["beds"]
        assert bed["emulator"] == f"QEMU {'.'.join(map(str, ours.version))}, bundled (asked for)"
        (process,) = emulators_below(state_folder)
        mapped = {
            line.split(maxsplit=5)[5].strip() for line in (process / "maps").read_text().splitlines() if "/" in line
        }
        strangers = {path for path in mapped if path.startswith(("/usr", "/lib", "/etc"))}
        assert strangers == set()
        assert any(str(ours.path.parent) in path for path in mapped)
    finally:
        cxlbed("down", "--all")


def test_the_machines_own_emulator_still_runs_a_bed(cxlbed):
    try:
        ended = cxlbed("up", "direct", "--emulator", "system")
        assert ended.returncode == 0, ended.stderr
        (bed,) = json.loads(cxlbed("status", "--json", "-").stdout)["beds"]
        assert ", system (asked for)" in bed["emulator"]
    finally:
        cxlbed("down", "--all")


def emulators_below(state_folder):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if arguments.split(b"\0")[0].endswith(b"/qemu-system-x86_64") and str(state_folder).encode() in arguments:
            found.append(process)
    return found

"""Our own emulator and the choice between it and others. Small programs stand for mmdebstrap and for QEMU."""

import dataclasses
import sys

import pytest

from emulation.errors import InputError, MachineError
from emulation.machines.emulator import choice, own
from emulation.machines.emulator.recipe import OWN, EmulatorRecipe
from guest.artefacts import debian
from guest.errors import ImageError

RECIPE = dataclasses.replace(OWN, version="1:42.1.0+ds-1")
# Offers OFFERED and hands out what the real hook leaves, less the file that LACKS names.
MMDEBSTRAP = f"""\
#!{sys.executable}
import os, pathlib, sys
asked = next(a for a in sys.argv if a.startswith("--include=")).split("=", 1)[1]
offered = os.environ["OFFERED"]
package, _, version = asked.partition("=")
if "--simulate" in sys.argv:
    print(f"Inst {{package}} ({{offered}} Debian Backports:stable-backports [amd64])")
    sys.exit(0)
with (pathlib.Path(sys.argv[0]).parent / "runs").open("a") as runs:
    runs.write(" ".join(sys.argv) + chr(10))
if version != offered:
    print(f"E: Version '{{version}}' for '{{package}}' was not found")
    sys.exit(25)
parts = pathlib.Path(next(a for a in sys.argv if "copy-out" in a).split()[-1]) / "parts"
(parts / "firmware").mkdir(parents=True)
for name in {list(OWN.firmware)!r}:
    if name != os.environ.get("LACKS"):
        (parts / "firmware" / name).write_bytes(b"firmware")
number = version.split(":")[1].split("+")[0]
(parts / "qemu-system-x86_64").write_text(f"#!/bin/sh\\necho 'QEMU emulator version {{number}} (Debian {{version}})'\\n")
(parts / "qemu-system-x86_64").chmod(0o755)
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with a mirror that offers RECIPE's version and no QEMU; the folder of its programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder / "mmdebstrap", MMDEBSTRAP)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(debian, "SYSTEM_PATH", str(folder))
    monkeypatch.setenv("OFFERED", RECIPE.version)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    for function in (own.ensure, own.held):
        monkeypatch.setattr(function, "__defaults__", (RECIPE, None))
    return folder


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def qemu(path, version):
    return program(path, f"#!/bin/sh\necho 'QEMU emulator version {version}'\n")


def choose(asked=None, runs_as_us=True, said=None):
    return choice.choose(asked, runs_as_us, (said if said is not None else []).append)


def test_our_emulator_is_built_once_and_then_found(machine, tmp_path):
    built = own.ensure(lambda _step: None, RECIPE)
    assert own.ensure(lambda _step: None, RECIPE) == built == own.held(RECIPE)
    assert len((machine / "runs").read_text().splitlines()) == 1
    assert built.folder == tmp_path / "cache" / "cxlbed" / "emulators" / RECIPE.hash
    assert built.version == RECIPE.version
    built.verify()
    assert own.list_emulators() == [built]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(EmulatorRecipe)])
def test_any_change_of_the_recipe_is_another_emulator(field):
    value = getattr(OWN, field)
    changed = value + "x" if isinstance(value, str) else (*value[:-1], "other")
    assert dataclasses.replace(OWN, **{field: changed}).hash != OWN.hash


def test_a_recipe_that_the_mirror_has_left_behind_says_so_and_what_to_change(machine, monkeypatch):
    monkeypatch.setenv("OFFERED", "1:43.0.1+ds-2")
    with pytest.raises(
        own.StaleRecipeError,
        match=r"has qemu-system-x86 1:43\.0\.1\+ds-2, the recipe names 1:42\.1\.0\+ds-1; change VERSION",
    ):
        own.ensure(lambda _step: None, RECIPE)
    assert own.list_emulators() == []
    assert own.offered_version(RECIPE) == "1:43.0.1+ds-2"


def test_a_build_without_a_firmware_file_is_refused_since_the_machines_would_be_read(machine, monkeypatch):
    monkeypatch.setenv("LACKS", "pvh.bin")
    with pytest.raises(ImageError, match=r"firmware pvh\.bin is not in the packages of trixie-backports"):
        own.ensure(lambda _step: None, RECIPE)
    assert own.held(RECIPE) is None


def test_an_emulator_that_lost_a_part_is_built_again(machine):
    (own.ensure(lambda _step: None, RECIPE).folder / "firmware" / "pvh.bin").unlink()
    assert own.held(RECIPE) is None
    own.ensure(lambda _step: None, RECIPE).verify()


def test_prune_keeps_what_it_is_told_to_keep(machine):
    kept = own.ensure(lambda _step: None, RECIPE)
    own.ensure(lambda _step: None, dataclasses.replace(RECIPE, firmware=("pvh.bin",)))
    assert len(own.prune(frozenset({kept.hash}))) == 1
    assert own.list_emulators() == [kept]


def test_a_machine_whose_qemu_is_too_old_gets_ours(machine):
    qemu(machine / own.PROGRAM, "10.0.2")
    emulator = choose()
    assert (emulator.kind, emulator.version, emulator.reason) == ("bundled", (42, 1), "the machine's is 10.0")
    assert str(emulator) == "QEMU 42.1, bundled (the machine's is 10.0)"


@pytest.mark.parametrize(("version", "kind"), [("11.0.4", "bundled"), ("11.1.0", "system"), ("12.0", "system")])
def test_the_machines_is_taken_from_11_1_on(machine, version, kind):
    qemu(machine / own.PROGRAM, version)
    assert choose().kind == kind


def test_a_machine_without_any_gets_ours(machine):
    assert choose().reason == "the machine has none"


def test_an_emulator_that_libvirt_starts_for_somebody_else_is_the_machines(machine):
    qemu(machine / own.PROGRAM, "10.0.2")
    assert choose(runs_as_us=False).kind == "system"
    assert choose("bundled", runs_as_us=False).kind == "bundled"


def test_where_ours_cannot_be_had_the_machines_is_taken_and_the_reason_said(machine, monkeypatch):
    monkeypatch.setenv("OFFERED", "1:43.0.1+ds-2")
    qemu(machine / own.PROGRAM, "10.0.2")
    said = []
    emulator = choose(said=said)
    assert emulator.kind == "system"
    assert "the recipe no longer holds" in emulator.reason
    assert any("change VERSION" in line for line in said)


@pytest.mark.parametrize("version", [None, "7.2.0"])
def test_where_neither_will_do_the_failure_is_that_of_ours(machine, monkeypatch, version):
    monkeypatch.setenv("OFFERED", "1:43.0.1+ds-2")
    if version:
        qemu(machine / own.PROGRAM, version)
    with pytest.raises(own.StaleRecipeError):
        choose()


def test_bundled_is_never_replaced_in_silence(machine, monkeypatch):
    monkeypatch.setenv("OFFERED", "1:43.0.1+ds-2")
    qemu(machine / own.PROGRAM, "12.0")
    with pytest.raises(own.StaleRecipeError):
        choose("bundled")


def test_option_goes_before_variable_and_variable_before_what_fits(machine, monkeypatch):
    qemu(machine / own.PROGRAM, "10.0.2")
    mine = qemu(machine / "mine", "12.3.1")
    monkeypatch.setenv(choice.VARIABLE, "system")
    assert (choose().kind, choose().reason) == ("system", "CXLBED_EMULATOR says so")
    assert (choose(str(mine)).version, choose(str(mine)).reason) == ((12, 3), "asked for")
    assert choose("auto").kind == "bundled"


@pytest.mark.parametrize("asked", ["/no/such/qemu", "relative/qemu", "/bin/true"])
def test_a_path_that_is_no_qemu_is_refused(machine, asked):
    with pytest.raises(InputError, match="is no QEMU that starts; give auto, bundled, system or the absolute path"):
        choose(asked)


def test_system_on_a_machine_without_one_says_what_to_install(machine):
    with pytest.raises(MachineError, match=r"not found in PATH; run scripts/setup"):
        choose("system")


def test_a_preview_builds_nothing(machine):
    with pytest.raises(ImageError, match="is not in the cache yet; build it"):
        choice.preview()
    assert not (machine / "runs").exists()
    own.ensure(lambda _step: None, RECIPE)
    assert choice.preview().kind == "bundled"

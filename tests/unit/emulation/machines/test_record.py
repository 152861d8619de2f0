"""What beds leave on disk, and what the command says where that is damaged, not ours or not there. Boots nothing."""

import fcntl
import json
import subprocess
import sys
import threading
import time

import pytest

from emulation.errors import InputError, MachineError
from emulation.machines import bed as beds
from emulation.machines.launch import Options
from emulation.machines.record import BedRecord, HostRecord, bed_folder, bed_folders
from qemu_configs import bedfile


@pytest.fixture(autouse=True)
def state_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CXLBED_STATE_DIR", str(tmp_path / "s"))
    return tmp_path / "s"


def cxlbed(*arguments):
    program = [sys.executable, "-c", "from emulation.cli import main; main()"]
    ended = subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in ended.stderr
    return ended


def record(name, **changes):
    hosts = (HostRecord("a", f"cxlbed-{name}-a", "no-such-uuid", 1),)
    topology = bedfile.load("direct").model_dump_json()
    fields = {"topology_json": topology, "topology_name": "direct", "uri": "embedded", "accelerator": "tcg"}
    return BedRecord(
        name=name,
        image_hash="0",
        emulator="/no/qemu",
        emulator_choice="QEMU 11.1",
        maps_directly=True,
        memory_folder="/no/such",
        hosts=hosts,
        **{**fields, **changes},
    )


def left_behind(name, **changes):
    """The folder of a bed whose up was cut off before anything started."""
    folder = bed_folder(name)
    folder.path.mkdir()
    folder.write(record(name, **changes))
    return folder


def test_a_record_is_read_as_it_was_written():
    assert left_behind("x").read() == record("x")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": "x", "hosts": [], "from_the_future": 1}'])
def test_a_damaged_record_is_named_with_its_file(text):
    left_behind("x")
    (bed_folder("x").path / "bed.json").write_text(text)
    with pytest.raises(MachineError, match=r"bed 'x': .*bed.json is damaged or of another version"):
        bed_folder("x").read()
    assert cxlbed("status").returncode == 3


def test_down_all_ends_the_others_and_then_names_the_one_that_it_could_not_end():
    for name in ("a", "broken", "z"):
        left_behind(name)
    (bed_folder("broken").path / "bed.json").write_text("{")
    ended = cxlbed("down", "--all")
    assert ended.returncode == 3
    assert "ended a, z, but:" in ended.stderr
    assert "bed 'broken'" in ended.stderr
    assert [folder.path.name for folder in bed_folders()] == ["broken"]


def test_a_lock_goes_with_its_bed_and_stays_while_there_is_one(state_folder):
    with bed_folder("x").lock(1):
        assert (state_folder / ".x.lock").exists()
    assert list(state_folder.iterdir()) == []
    left_behind("x")
    with bed_folder("x").lock(1):
        pass
    assert (state_folder / ".x.lock").exists()


def test_a_lock_that_another_has_is_waited_for_until_the_deadline():
    refused = pytest.raises(MachineError, match="another cxlbed has been at work on it")
    with bed_folder("x").lock(1), refused, bed_folder("x").lock(0.2):
        pass


def test_a_lock_whose_file_was_removed_meanwhile_is_not_taken_for_the_bed_s(state_folder):
    state_folder.mkdir(mode=0o700)
    path = state_folder / ".x.lock"
    inside, leave = threading.Event(), threading.Event()

    def wait_for_it():
        with bed_folder("x").lock(20):
            inside.set()
            leave.wait(20)

    with path.open("w") as old:
        fcntl.flock(old, fcntl.LOCK_EX)
        waiter = threading.Thread(target=wait_for_it)
        waiter.start()
        time.sleep(0.3)  # it has the old file open now
        path.unlink()
    assert inside.wait(20)
    refused = pytest.raises(MachineError, match="another cxlbed has been at work on it")
    with refused, bed_folder("x").lock(0.2):
        pass
    leave.set()
    waiter.join()


def test_a_bed_that_is_not_ready_can_show_its_console_and_nothing_else():
    left_behind("x")
    with pytest.raises(InputError, match="is not ready yet, or its up was cut off"):
        beds.find("x")
    ended = cxlbed("console", "x")
    assert ended.returncode == 2
    assert "has printed nothing yet" in ended.stderr


def test_a_bed_of_another_version_can_be_ended():
    left_behind("x", topology_json='{"from_the_future": 1}', ready_s=1.0)
    ended = cxlbed("exec", "x", "--", "true")
    assert ended.returncode == 3
    assert "comes from another version of cxlbed; end it: cxlbed down x" in ended.stderr
    assert cxlbed("down", "x").returncode == 0


def test_beds_that_are_not_there_end_with_2_and_leave_nothing(state_folder):
    for arguments in (["down", "none"], ["exec", "none", "--", "true"], ["ssh", "none"], ["console", "none"]):
        ended = cxlbed(*arguments)
        assert ended.returncode == 2
        assert "bed 'none': is not up" in ended.stderr
    assert list(state_folder.iterdir()) == []


def test_a_state_folder_that_cannot_be_made_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CXLBED_STATE_DIR", str(tmp_path / "file"))
    ended = cxlbed("status")
    assert ended.returncode == 3
    assert f"state folder {tmp_path / 'file'}: cannot be made" in ended.stderr


def test_a_folder_too_long_for_sockets_is_refused_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setenv("CXLBED_STATE_DIR", str(tmp_path / ("x" * 90)))
    ended = cxlbed("up", "direct")
    assert ended.returncode == 2
    assert "characters too long for sockets below it; give a shorter --name" in ended.stderr


@pytest.mark.parametrize("path", ["/proc/none/x.json", "/tmp", ""])
def test_a_json_path_that_cannot_be_written_ends_with_2(path):
    ended = cxlbed("status", "--json", path)
    assert ended.returncode == 2
    assert "--json" in ended.stderr


def test_json_is_written_whole(tmp_path):
    assert cxlbed("status", "--json", str(tmp_path / "new" / "s.json")).returncode == 0
    assert json.loads((tmp_path / "new" / "s.json").read_text()) == {"beds": []}


def test_an_accelerator_that_is_none_is_refused():
    with pytest.raises(InputError, match="accelerator 'hvf': must be auto, kvm or tcg"):
        Options(accelerator="hvf")
    assert cxlbed("up", "direct", "--accelerator", "hvf").returncode == 2

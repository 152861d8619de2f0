"""What a bed leaves is its owner's alone, and what somebody else put where beds are is neither read, run nor removed."""

import os
import re

import pytest

from emulation.errors import MachineError
from emulation.machines import bed as beds
from emulation.machines import launch, record
from emulation.machines.hypervisor import EMBEDDED, Libvirt
from emulation.machines.launch import Options
from emulation.machines.record import bed_folder, state_root
from qemu_configs import bedfile
from tests.support.beds import World


@pytest.fixture
def place(monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "carried", dict)
    monkeypatch.setattr(record, "LONGEST_SOCKET_PATH", 1000)
    (tmp_path / "shm").mkdir()
    monkeypatch.setenv("CXLBED_STATE_DIR", str(tmp_path / "s"))
    return tmp_path


@pytest.fixture
def world(place):
    return World(place, "shared-pool")


@pytest.fixture
def up(place, world):
    options = Options(accelerator="tcg", memory_folder=place / "shm")
    return lambda: beds.up(bedfile.load("shared-pool"), "x", options, lambda _text: None, world.backend)


def down(world):
    return beds.down("x", lambda _text: None, world.backend)


def test_memory_and_state_of_a_bed_are_its_owners_alone(place, up):
    before = os.umask(0)  # the most generous there is
    try:
        up()
    finally:
        os.umask(before)
    (memory,) = (place / "shm").iterdir()
    assert memory.stat().st_mode & 0o077 == 0
    assert sorted(file.name for file in memory.iterdir()) == ["pool0.mem", "pool1.mem"]
    assert all(file.stat().st_mode & 0o077 == 0 for file in memory.iterdir())
    assert bed_folder("x").path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_state_folder_that_others_can_write_is_refused(place, up, mode):
    (place / "s").mkdir()
    (place / "s").chmod(mode)
    for act in (up, beds.status, lambda: beds.down_all(lambda _text: None)):
        with pytest.raises(MachineError, match=rf"mode=0{mode:o} lets others write in it.*chmod go-w"):
            act()
    assert list((place / "s").iterdir()) == []


def test_a_state_folder_that_anybody_can_replace_is_refused(place):
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    os.environ["CXLBED_STATE_DIR"] = str(place / "open" / "s")
    with pytest.raises(MachineError, match="any user may replace it"):
        state_root()
    (place / "open").chmod(0o1777)
    assert state_root() == place / "open" / "s"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's files")
def test_what_another_user_planted_is_neither_followed_nor_read(place, up, world):
    up()
    folder, victim = bed_folder("x").path, place / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    os.chown(folder / "bed.json", 12345, 12345)
    with pytest.raises(MachineError, match=r"bed 'x': .*bed.json is a link, or of user 12345: cxlbed did not make it"):
        down(world)
    os.chown(folder / "bed.json", 0, 0)
    link = place / "link"
    link.symlink_to(place / "s")
    os.chown(link, 12345, 12345, follow_symlinks=False)
    os.environ["CXLBED_STATE_DIR"] = str(link)
    with pytest.raises(MachineError, match="belongs to user 12345"):
        down(world)


@pytest.mark.parametrize("part", ["folder", "record"])
def test_a_bed_behind_a_link_is_refused_and_what_it_leads_to_stays(place, up, world, part):
    up()
    folder = bed_folder("x").path
    moved = place / "elsewhere"
    (folder if part == "folder" else folder / "bed.json").rename(moved)
    (folder if part == "folder" else folder / "bed.json").symlink_to(moved)
    for act in (up, lambda: down(world), lambda: beds.status(world.backend)):
        with pytest.raises(MachineError, match=r"is a link, or of user"):
            act()
    assert moved.exists()


def test_only_a_folder_of_backing_files_is_removed_as_one(place, up, world):
    up()
    precious = place / "precious"
    precious.mkdir()
    text = (bed_folder("x").path / "bed.json").read_text()
    planted = re.sub(r'"memory_folder": "[^"]*"', f'"memory_folder": "{precious}"', text)
    (bed_folder("x").path / "bed.json").write_text(planted)
    assert down(world)
    assert precious.exists()


class FullDisk:
    """Every record from the n-th on finds no room."""

    def __init__(self, monkeypatch, left):
        self.left, self._write = left, record.write_whole
        monkeypatch.setattr(record, "write_whole", self)

    def __call__(self, path, content):
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device", str(path))
        self._write(path, content)


def test_an_up_in_a_full_state_folder_leaves_nothing(monkeypatch, place, up, world):
    for left in range(10):
        disk = FullDisk(monkeypatch, left)
        world.fail("destroy", OSError(28, "No space left on device"))  # nor can libvirt's driver write
        try:
            up()
        except OSError:
            monkeypatch.undo()
            monkeypatch.setattr(launch, "carried", dict)
            monkeypatch.setattr(record, "LONGEST_SOCKET_PATH", 1000)
            monkeypatch.setenv("CXLBED_STATE_DIR", str(place / "s"))
            assert list((place / "shm").iterdir()) == list((place / "s").iterdir()) == []
            continue
        assert disk.left >= 0
        assert left > 1
        break
    world.fail("destroy", OSError(28, "No space left on device"))
    assert down(world)
    assert list((place / "shm").iterdir()) == list((place / "s").iterdir()) == []


def test_a_log_that_finds_no_room_stops_nobody(place):
    root = place / "v"
    root.mkdir()
    (root / "libvirt.log").symlink_to("/dev/full")
    Libvirt(EMBEDDED, root)._keep_log("words " * 10_000)

"""The cache of images. A small program stands where mmdebstrap would be on PATH; all else is real, processes and kills too."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from guest.artefacts import cache, debian
from guest.errors import ImageError
from guest.image import build
from guest.image import cache as image
from guest.image.recipe import SOURCES, STOCK, Recipe

MODULES = {"disk": "virtio_blk", "net": "virtio_net", "cxl": "cxl_mem"}
RECIPE = dataclasses.replace(STOCK, modules=tuple((step, (name,)) for step, name in MODULES.items()))
# Hands out what the real one's hook leaves, after as long as MMDEBSTRAP_TAKES_S says; each run is noted in a file.
STAND_IN = f"""\
#!{sys.executable}
import lzma, os, pathlib, sys, time
place = pathlib.Path(sys.argv[0]).parent
with (place / "runs").open("a") as runs:
    runs.write("run\\n")
print("I: installing essential packages...", flush=True)
(place / "started").touch()
time.sleep(float(os.environ.get("MMDEBSTRAP_TAKES_S", "0")))
if "MMDEBSTRAP_FAILS" in os.environ:
    print("E: no route to the mirror")
    sys.exit(25)
parts = pathlib.Path(next(a for a in sys.argv if "copy-out" in a).split()[-1]) / "parts"
(parts / "modules").mkdir(parents=True)
names = {sorted(MODULES.values())!r}
for name in names:
    (parts / "modules" / (name + ".ko.xz")).write_bytes(lzma.compress(b"module " + name.encode()))
(parts / "modules" / "modules.dep").write_text("".join(name + ".ko.xz:\\n" for name in names))
(parts / "vmlinux").write_bytes(b"kernel")
(parts / "disk.ext4").write_bytes(b"disk" * 1000)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The folder of the stand-in, first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "mmdebstrap").write_text(STAND_IN)
    (folder / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def root(tmp_path):
    return tmp_path / "images"


def num_runs(stand_in):
    return len((stand_in / "runs").read_text().splitlines())


def until(condition, deadline_s=20):
    give_up = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_an_image_is_built_once_and_then_found(stand_in, root):
    steps = []
    built = image.ensure(steps.append, RECIPE, root)
    assert image.ensure(steps.append, RECIPE, root) == built
    assert num_runs(stand_in) == 1
    assert "installing essential packages" in steps
    assert built.kernel.read_bytes() == b"kernel"
    assert built.folder == root / RECIPE.hash
    assert built.cmdline == RECIPE.cmdline
    assert sorted(path.name for path in built.folder.iterdir()) == ["disk.ext4", "initrd", "manifest.json", "vmlinux"]
    built.verify()


def test_the_initramfs_holds_the_init_and_the_unpacked_modules_of_each_step(stand_in, root):
    raw = image.ensure(None, RECIPE, root).initrd.read_bytes()
    for name in (
        b"init\0",
        b"modules/disk/00-virtio_blk.ko\0",
        b"modules/cxl/00-cxl_mem.ko\0",
        b"overlay/etc/ssh/sshd_config\0",
    ):
        assert name in raw
    assert b"module virtio_net" in raw


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
def test_any_change_of_the_recipe_is_another_image(field):
    value = getattr(STOCK, field)
    changed = value + "x" if isinstance(value, str) else value[:-1]
    assert dataclasses.replace(STOCK, **{field: changed}).hash != STOCK.hash


def test_the_recipe_carries_the_text_of_its_sources_so_that_an_edit_rebuilds():
    assert dict(STOCK.sources)["init.c"] == (SOURCES / "init.c").read_text()
    edited = tuple((name, text + "\n" if name == "pack.sh" else text) for name, text in STOCK.sources)
    assert dataclasses.replace(STOCK, sources=edited).hash != STOCK.hash


BUILDER = """
    import dataclasses, sys
    from pathlib import Path
    from guest.image import cache as image
    from guest.image.recipe import STOCK
    recipe = dataclasses.replace(STOCK, modules={modules!r})
    print(image.ensure(lambda step: print(step, flush=True), recipe, Path({root!r})).hash, flush=True)
"""


def builder(root, takes_s=0.0):
    """A process that builds, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(BUILDER).format(modules=RECIPE.modules, root=str(root))],
        env={**os.environ, "MMDEBSTRAP_TAKES_S": str(takes_s)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_killed_build_is_never_taken_for_a_finished_one(stand_in, root):
    with builder(root, takes_s=600) as victim:
        until((stand_in / "started").exists)
        os.killpg(victim.pid, signal.SIGKILL)
    assert (root / cache.UNFINISHED).is_dir()
    assert image.list_images(root) == []
    image.ensure(None, RECIPE, root).verify()
    assert not (root / cache.UNFINISHED).exists()
    assert num_runs(stand_in) == 2


def test_a_build_waits_for_the_programs_of_a_killed_one(stand_in, root):
    """Else the orphan would write into the next build's folder."""
    with builder(root, takes_s=1.5) as victim:
        until((stand_in / "started").exists)
        begun = time.monotonic()
        victim.kill()
    steps = []
    image.ensure(steps.append, RECIPE, root).verify()
    assert steps[0] == "waiting for another cxlbed that builds the image"
    assert time.monotonic() - begun > 1.0


def test_a_second_build_waits_for_the_first_and_uses_its_image(stand_in, root):
    with builder(root, takes_s=1) as first:
        until((stand_in / "started").exists)
        with builder(root) as second:
            said = second.communicate(timeout=30)[0].splitlines()
        first.communicate(timeout=30)
    assert said == ["waiting for another cxlbed that builds the image", RECIPE.hash]
    assert num_runs(stand_in) == 1


def test_an_interrupted_build_ends_mmdebstrap_and_leaves_no_image(stand_in, root, monkeypatch):
    monkeypatch.setenv("MMDEBSTRAP_TAKES_S", "600")

    def interrupt(step):
        if step == "installing essential packages":
            raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        image.ensure(interrupt, RECIPE, root)
    assert time.monotonic() - begun < 60
    assert image.list_images(root) == []


@pytest.mark.parametrize("part", ["vmlinux", "initrd", "disk.ext4", "manifest.json"])
def test_an_image_that_lost_a_part_is_built_again(stand_in, root, part):
    (image.ensure(None, RECIPE, root).folder / part).unlink()
    assert image.list_images(root) == []
    image.ensure(None, RECIPE, root).verify()
    assert num_runs(stand_in) == 2


@pytest.mark.parametrize("part", ["disk.ext4", "manifest.json"])
def test_an_image_with_a_short_part_is_built_again(stand_in, root, part):
    short = image.ensure(None, RECIPE, root).folder / part
    os.truncate(short, short.stat().st_size // 2)
    image.ensure(None, RECIPE, root).verify()
    assert num_runs(stand_in) == 2


def test_a_flipped_byte_is_found_when_an_image_is_verified(stand_in, root):
    built = image.ensure(None, RECIPE, root)
    built.disk.write_bytes(b"D" + built.disk.read_bytes()[1:])
    with pytest.raises(ImageError, match=r"disk\.ext4 has sha256 .*, its manifest says .*; remove "):
        built.verify()


def test_prune_keeps_what_it_is_told_to_keep_and_removes_leftovers(stand_in, root):
    old = dataclasses.replace(RECIPE, cmdline="old")
    image.ensure(None, old, root)
    image.ensure(None, RECIPE, root)
    (root / cache.UNFINISHED).mkdir()
    assert sorted(image.prune(frozenset({RECIPE.hash}), root)) == sorted([old.hash, cache.UNFINISHED])
    assert [found.hash for found in image.list_images(root)] == [RECIPE.hash]


def test_images_are_listed_newest_first(stand_in, root):
    older = image.ensure(None, dataclasses.replace(RECIPE, cmdline="old"), root)
    os.utime(older.folder / cache.MANIFEST, (1, 1))
    newer = image.ensure(None, RECIPE, root)
    assert image.list_images(root) == [newer, older]
    assert newer.size_bytes > 0


def test_a_failed_build_says_what_mmdebstrap_said_and_leaves_no_image(stand_in, root, monkeypatch):
    monkeypatch.setenv("MMDEBSTRAP_FAILS", "1")
    with pytest.raises(ImageError, match=r"mmdebstrap ended with status 25; (.|\n)*no route to the mirror"):
        image.ensure(None, RECIPE, root)
    assert image.list_images(root) == []


def test_a_machine_without_mmdebstrap_is_told_what_to_install(root, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(debian, "SYSTEM_PATH", str(tmp_path))
    with pytest.raises(ImageError, match="mmdebstrap is not installed; apt install mmdebstrap"):
        image.ensure(None, RECIPE, root)


def test_a_full_disk_is_told_before_anything_is_built(stand_in, root, monkeypatch):
    monkeypatch.setattr(image, "NEEDED_BYTES", 1 << 62)
    with pytest.raises(
        ImageError, match=r"MiB free, a build needs 4398046511104 MiB; make room, or set XDG_CACHE_HOME"
    ):
        image.ensure(None, RECIPE, root)
    assert not (stand_in / "runs").exists()


def test_the_manifest_says_what_the_image_was_made_of(stand_in, root):
    manifest = json.loads((image.ensure(None, RECIPE, root).folder / cache.MANIFEST).read_text())
    assert manifest["recipe"]["suite"] == "trixie"
    assert set(manifest["parts"]) == {"vmlinux", "initrd", "disk.ext4"}


def test_modules_come_after_what_they_need():
    modules_dep = (
        "net/virtio_net.ko.xz: net/net_failover.ko.xz net/failover.ko.xz\n"
        "net/net_failover.ko.xz: net/failover.ko.xz\n"
        "net/failover.ko.xz:\n"
    )
    assert build.modules_in_order(("net_failover", "virtio_net"), modules_dep) == [
        "net/failover.ko.xz",
        "net/net_failover.ko.xz",
        "net/virtio_net.ko.xz",
    ]


def test_a_module_that_the_kernel_lacks_is_named():
    with pytest.raises(ImageError, match="module cxl_mem: the kernel has no such file"):
        build.modules_in_order(("cxl_mem",), "")


def test_the_cache_lies_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert image.cache_root() == tmp_path / "cxlbed" / "images"


def test_two_threads_of_one_process_build_once(stand_in, root):
    found = []
    threads = [threading.Thread(target=lambda: found.append(image.ensure(None, RECIPE, root))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert num_runs(stand_in) == 1
    assert found[0] == found[1]

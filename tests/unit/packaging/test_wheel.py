"""A wheel made from a clean checkout: what it carries, and that it works where nothing can be written or compiled."""

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIBRARIES = ("sac_runtime/native/libsac.so", "emulation/timing/native/libtiming.so")
PROGRAM = """
import emulation.timing.native as timing, sac_runtime.native as native
print(native.LIBRARY.path(), timing.LIBRARY.path())
native.load(), timing._load()
"""


def clean_checkout(folder):
    """The files that git would hand out, and those not yet committed; no library among them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and not name.startswith("tests/") and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    assert not list(folder.rglob("*.so"))
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Without isolation: the build's own requirements are installed here, and nothing is fetched."""
    checkout, out = clean_checkout(tmp_path_factory.mktemp("checkout")), tmp_path_factory.mktemp("wheel")
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", build, str(out)], cwd=checkout, check=True, capture_output=True,
        env=os.environ | {"SETUPTOOLS_SCM_PRETEND_VERSION": "1.2.3"},
    )  # fmt: skip
    (path,) = out.glob("*.whl")
    return path


def test_a_wheel_carries_both_libraries_and_is_of_this_platform(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert set(LIBRARIES) <= set(names)
    assert wheel.name.startswith("cxlbed-1.2.3-py3-none-linux_")


def test_a_wheel_carries_every_file_that_its_packages_read(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = [ROOT / name for name in ("emulation", "guest", "qemu_configs", "sac_runtime")]
    here = {path for package in packages for path in package.rglob("*") if path.is_file()}
    unwanted = {path for path in here if path.suffix in {".so", ".pyc"}}
    assert {path.relative_to(ROOT).as_posix() for path in here - unwanted} - names == set()


def test_a_read_only_install_without_a_compiler_uses_the_libraries_of_the_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    for path in (tmp_path / "site").rglob("*"):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    environment = {
        "PYTHONPATH": str(tmp_path / "site"),
        "PATH": str(tmp_path),
        "HOME": "/nonexistent",
        "PYTHONSAFEPATH": "1",
    }
    ended = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [str(tmp_path / "site" / name) for name in LIBRARIES]

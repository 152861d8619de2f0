"""Building and finding the native library, in a copy of its folder."""

import shutil

import pytest

from sac_runtime import native
from sac_runtime.errors import StoreError
from sac_runtime.native import build


@pytest.fixture
def folder(tmp_path, monkeypatch):
    copy = tmp_path / "native"
    shutil.copytree(build.HERE, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    monkeypatch.setattr(build, "HERE", copy)
    monkeypatch.setattr(build, "LIBRARY", copy / "libsac.so")
    native.load.cache_clear()
    yield copy
    native.load.cache_clear()


def test_a_library_is_built_once_and_again_when_a_source_changes(folder):
    library = build.build()
    first = library.stat().st_mtime_ns
    assert build.build().stat().st_mtime_ns == first, "nothing changed, nothing built"
    (folder / "cpu.c").write_text((folder / "cpu.c").read_text() + "\n")
    assert build.build().stat().st_mtime_ns > first
    assert build.built_hash() == build.source_hash()


def test_a_missing_or_stale_library_names_the_command_that_builds_it(folder):
    with pytest.raises(StoreError, match=r"missing; build it with: python -m sac_runtime\.native\.build"):
        native.load()
    build.build()
    (folder / "rows.c").write_text((folder / "rows.c").read_text() + "\n")
    with pytest.raises(StoreError, match="built from other sources; build it with"):
        native.load()


def test_a_compiler_error_is_shown_and_leaves_no_library(folder):
    (folder / "rows.c").write_text("int broken(")
    with pytest.raises(StoreError, match=r"(?s)ended with 1:.*rows\.c"):
        build.build()
    assert list(folder.glob("*.so")) == []


def test_without_a_compiler_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(StoreError, match="no C compiler; install one"):
        build.build()

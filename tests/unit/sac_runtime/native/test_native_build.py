"""Compiling and finding the native libraries, and the structs that Python and C share."""

import ctypes

import pytest

from emulation.errors import MachineError
from emulation.timing import native as timing_native
from sac_runtime import native
from sac_runtime.errors import StoreError
from sac_runtime.native.library import CompilerError, NativeLibrary


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library of one line, which compiles in no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "tiny.c").write_text("const char tiny_stamp[] = SOURCE_STAMP;")
    return NativeLibrary("tiny", tmp_path / "native")


def edit(library):
    (library.folder / "tiny.h").write_text("/* another source */")


def without_compiler(monkeypatch, folder):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(folder))


def test_a_library_is_compiled_once_and_again_when_a_source_changes(library):
    first = library.compile(library.in_package).stat().st_mtime_ns
    assert library.compile(library.in_package).stat().st_mtime_ns == first, "nothing changed, nothing compiled"
    edit(library)
    assert library.compile(library.in_package).stat().st_mtime_ns > first


def test_the_packages_own_library_needs_no_compiler_and_no_cache(library, monkeypatch, tmp_path):
    library.compile(library.in_package)
    without_compiler(monkeypatch, tmp_path)
    assert library.path() == library.in_package
    assert not library.in_cache.parent.exists()


def test_without_one_in_the_package_it_is_compiled_into_the_cache_once(library, monkeypatch, tmp_path):
    path = library.path()
    assert path == library.in_cache
    assert not library.in_package.exists()
    without_compiler(monkeypatch, tmp_path)
    assert library.path() == path


def test_a_stale_library_is_never_taken(library, monkeypatch, tmp_path):
    library.compile(library.in_package)
    library.compile(library.path())
    edit(library)
    without_compiler(monkeypatch, tmp_path)
    with pytest.raises(CompilerError, match="no C compiler; install one"):
        library.path()


def test_a_compiler_error_is_shown_and_leaves_no_library(library):
    (library.folder / "tiny.c").write_text("int broken(")
    with pytest.raises(CompilerError, match=r"(?s)ended with 1:.*tiny\.c"):
        library.path()
    assert list(library.in_cache.parent.iterdir()) == []


def test_without_a_compiler_both_libraries_say_what_to_install(library, monkeypatch, tmp_path):
    without_compiler(monkeypatch, tmp_path)
    monkeypatch.setattr(native, "LIBRARY", library)
    with pytest.raises(StoreError, match="native library: no C compiler; install one"):
        native.load.__wrapped__()
    monkeypatch.setattr(timing_native, "LIBRARY", library)
    with pytest.raises(MachineError, match="injector: no C compiler; install one"):
        timing_native._load.__wrapped__()


def altered(struct, *fields):
    return type(struct.__name__, (ctypes.Structure,), {"_fields_": fields})


ROWS = native.RowsCall._fields_
ALTERED_ROWS = {
    "shifted: another type before it": ((ROWS[0], ("num_rows", ctypes.c_int32), *ROWS[2:]), r"sac_rows\.num_rows: "),
    "two swapped": ((ROWS[0], ROWS[2], ROWS[1], *ROWS[3:]), r"sac_rows\.(stride|num_rows): "),
    "one left out": (ROWS[:-1], r"sac_rows\.copy: .* is None in"),
    "one too many": ((*ROWS, ("more", ctypes.c_int64)), r"sac_rows\.more: .* None in sac\.h"),
    "another name": ((*ROWS[:-1], ("copies", ctypes.c_int32)), r"sac_rows\.cop(y|ies): "),
}


@pytest.mark.parametrize("how", ALTERED_ROWS)
def test_a_struct_that_is_not_the_one_in_c_is_refused_by_the_fields_name(how):
    fields, message = ALTERED_ROWS[how]
    with pytest.raises(StoreError, match=f"struct {message}"):
        native.require_same_structs(native.load(), native.STRUCTS | {"sac_rows": altered(native.RowsCall, *fields)})


def test_every_struct_of_sac_h_that_a_field_table_repeats_is_compared():
    tables = {
        value for value in vars(native).values() if isinstance(value, type) and issubclass(value, ctypes.Structure)
    }
    assert tables - set(native.STRUCTS.values()) == {native._Field}
    with pytest.raises(StoreError, match="struct sac_index"):
        native.require_same_structs(
            native.load(), {name: native.STRUCTS[name] for name in native.STRUCTS if name != "sac_index"}
        )

"""Which instructions reach which cache lines when a store is flushed, invalidated and fenced.

No test could see it in memory: on one machine its caches are coherent. So lines.c is compiled here, each asm statement replaced
by a call that notes it, and the notes are compared; then lines.c is broken on purpose."""

import ctypes
import os
import re
import subprocess

import numpy as np
import pytest

from sac_runtime import native
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import LINE_BYTES, KvLayout

CLFLUSH, CLFLUSHOPT, CLWB = range(3)  # enum sac_flush
NAMES = {CLFLUSH: "clflush", CLFLUSHOPT: "clflushopt", CLWB: "clwb"}
RANGES = [(0, 64), (0, 65), (0, 1), (63, 1), (63, 2), (1, 127), (192, 320), (100, 1000), (64, 0)]  # offset, size

NOTING = """
#include "sac.h"
void (*note)(const char *statement, uintptr_t line);
static uintptr_t line; /* a fence has no line of its own */
#define __asm__
#define volatile(...) note(#__VA_ARGS__, line)
#include "lines.c"
"""


class NotingLibrary:
    """The native library with lines.c as `source` has it, noted instead of done. notes: (instruction, line address)."""

    def __init__(self, folder, source):
        (folder / "lines.c").write_text(source)
        (folder / "noting.c").write_text(NOTING)
        command = [os.environ.get("CC") or "cc", "-shared", "-fPIC", "-I", folder, "-I", native.LIBRARY.folder]
        subprocess.run([*command, "-o", folder / "noting.so", folder / "noting.c"], check=True)
        self._real = native.load()
        lines = ctypes.CDLL(str(folder / "noting.so"))
        self.sac_flush, self.sac_fence = lines.sac_flush, lines.sac_fence
        self.sac_flush.argtypes = self._real.sac_flush.argtypes
        self.notes = []
        self._note = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_size_t)(self._take_note)  # kept alive
        ctypes.c_void_p.in_dll(lines, "note").value = ctypes.cast(self._note, ctypes.c_void_p).value

    def __getattr__(self, name):
        return getattr(self._real, name)

    def sac_best_flush(self):
        return CLWB  # whatever CPU this is

    def _take_note(self, statement, line):
        on_line = re.fullmatch(r'"(\w+)" " %0" : "\+m"\(\*\(volatile uint8_t \*\)line\)', statement.decode())
        fence = re.fullmatch(r'"(\w+)" ::: "memory"', statement.decode())
        self.notes.append((on_line[1], line) if on_line else (fence[1] if fence else statement, None))


def lines_c():
    return (native.LIBRARY.folder / "lines.c").read_text()


@pytest.fixture
def library(tmp_path):
    return NotingLibrary(tmp_path, lines_c())


def touched(instruction, start, offset, size):
    """What is to be noted: each line that holds a byte of the range, once."""
    lines = range(offset // LINE_BYTES, -(-(offset + size) // LINE_BYTES))
    return [(instruction, start + LINE_BYTES * line) for line in lines]


def require_every_line_touched_once(library):
    memory = np.zeros(2048, np.uint8)
    start = -(-native.address(memory) // LINE_BYTES) * LINE_BYTES
    for kind, name in NAMES.items():
        for offset, size in RANGES:
            library.notes.clear()
            library.sac_flush(start + offset, size, kind)
            assert library.notes == touched(name, start, offset, size)


def require_full_fence(library):
    library.notes.clear()
    library.sac_fence()
    assert library.notes == [("mfence", None)]


def require_right_use(library, monkeypatch, copy=None):
    monkeypatch.setattr(native, "load", lambda: library)
    narrow = copy is native.Copy.NARROW
    with MappedStore.anonymous(KvLayout.fp8(), 10, huge_pages=False, copy=copy) as store:
        for offset, size in RANGES:
            library.notes.clear()
            store.flush(offset, size)
            assert library.notes == touched("clflush" if narrow else "clwb", store.address, offset, size)
            library.notes.clear()
            store.invalidate(offset, size)
            instruction = NAMES[CLFLUSH if narrow else library.sac_best_invalidate()]
            assert instruction != "clwb", "which may keep the line"
            assert library.notes == touched(instruction, store.address, offset, size)
        library.notes.clear()
        store.fence()
        assert library.notes == [("mfence", None)]


def test_every_line_that_holds_a_byte_of_the_range_is_touched_once(library):
    require_every_line_touched_once(library)


def test_a_fence_is_a_full_one_for_the_cpu_and_the_compiler(library):
    require_full_fence(library)


@pytest.mark.parametrize("copy", [native.Copy.BASELINE, native.Copy.NARROW], ids=lambda copy: copy.name)
def test_a_store_writes_back_by_flush_and_drops_by_invalidate(library, monkeypatch, copy):
    require_right_use(library, monkeypatch, copy)


BROKEN_SOURCES = {
    "fence emptied": ('__asm__ volatile("mfence" ::: "memory");', ""),
    "fence of stores alone": ('"mfence"', '"sfence"'),
    "fence not for the compiler": ('"mfence" ::: "memory"', '"mfence"'),
    "last line skipped": ("line < end", "line + SAC_LINE < end"),
    "line of the last bytes skipped": ("(uintptr_t)from + (uintptr_t)size", "((uintptr_t)from + (uintptr_t)size) / 64 * 64"),
    "line of the first bytes skipped": ("(uintptr_t)from & ~", "((uintptr_t)from + SAC_LINE - 1) & ~"),
    "every other line": ("line += SAC_LINE", "line += 2 * SAC_LINE"),
    "clwb for clflushopt": ('"clflushopt"', '"clwb"'),
    "clwb for clflush": ('"clflush"', '"clwb"'),
}  # fmt: skip


@pytest.mark.parametrize("breakage", BROKEN_SOURCES)
def test_a_broken_source_is_noticed(tmp_path, breakage):
    right, broken = BROKEN_SOURCES[breakage]
    assert lines_c().count(right) == 1
    library = NotingLibrary(tmp_path, lines_c().replace(right, broken))
    with pytest.raises(AssertionError):
        require_every_line_touched_once(library)
        require_full_fence(library)


def invalidate_by_flush(patch):
    patch.setattr(MappedStore, "invalidate", MappedStore.flush)


def one_instruction_for_both(patch):
    patch.setattr(native, "line_instructions", lambda narrow: (CLWB, CLWB))


def no_fence(patch):
    patch.setattr(MappedStore, "fence", lambda self: None)


@pytest.mark.parametrize("break_it", [invalidate_by_flush, one_instruction_for_both, no_fence])
def test_a_store_that_uses_them_wrongly_is_noticed(library, monkeypatch, break_it):
    break_it(monkeypatch)
    with pytest.raises(AssertionError):
        require_right_use(library, monkeypatch)

"""The runtime's C library and the typed doors to it. Knows ctypes and addresses; checks nothing that its callers check.

ctypes releases the interpreter lock in every call, so gathers of several Python threads run at once.
"""

import ctypes
import os
import threading
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sac_runtime.errors import StoreError
from sac_runtime.native.library import CompilerError, NativeLibrary

LIBRARY = NativeLibrary("sac", Path(__file__).parent)


class Copy(IntEnum):
    """How rows are copied; the first three are instruction sets, NARROW is for memory behind emulated MMIO."""

    BASELINE = 0
    AVX2 = 1
    AVX512 = 2
    NARROW = 3


class RowsCall(ctypes.Structure):
    """`struct sac_rows` of sac.h."""

    _fields_ = (
        ("store", ctypes.c_void_p),
        ("num_rows", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("row_bytes", ctypes.c_int64),
        ("rows", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("packed", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("num_slots", ctypes.c_int64),
        ("prefetch", ctypes.c_int32),
        ("copy", ctypes.c_int32),
    )


class BufferState(ctypes.Structure):
    """`struct sac_buffer` of sac.h."""

    _fields_ = (
        ("slot_of_token", ctypes.c_void_p),
        ("num_tokens", ctypes.c_int64),
        ("token_of_slot", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("capacity", ctypes.c_int64),
    )


class PlanStep(ctypes.Structure):
    """`struct sac_step` of sac.h."""

    _fields_ = (
        ("tokens", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("newest", ctypes.c_int64),
        ("newest_slot", ctypes.c_int64),
        ("direct", ctypes.c_int64),
        ("slots", ctypes.c_void_p),
        ("miss_tokens", ctypes.c_void_p),
        ("victim_slots", ctypes.c_void_p),
        ("miss_rows", ctypes.c_void_p),
        ("row_of_token", ctypes.c_void_p),
        ("first_row", ctypes.c_int64),
        ("compulsory", ctypes.c_int64),
        ("outside", ctypes.c_int64),
        ("gather_ns", ctypes.c_int64),
    )


class Index(ctypes.Structure):
    """`struct sac_index` of sac.h."""

    _fields_ = (
        ("table", ctypes.c_void_p),
        ("mask", ctypes.c_int64),
        ("hashes", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
    )


class JournalCheck(ctypes.Structure):
    """`struct sac_journal` of sac.h."""

    _fields_ = (
        ("multipliers", ctypes.c_void_p),
        ("salt", ctypes.c_uint64),
        ("first_block", ctypes.c_uint64),
        ("num_blocks", ctypes.c_uint64),
        ("block_tokens", ctypes.c_uint64),
    )


class _Field(ctypes.Structure):
    """`struct sac_field` of sac.h."""

    _fields_ = (
        ("structure", ctypes.c_char_p),
        ("field", ctypes.c_char_p),
        ("offset", ctypes.c_int64),
        ("size", ctypes.c_int64),
    )


STRUCTS: Mapping[str, type[ctypes.Structure]] = {
    "sac_rows": RowsCall,
    "sac_buffer": BufferState,
    "sac_step": PlanStep,
    "sac_index": Index,
    "sac_journal": JournalCheck,
}

_P, _I64, _I32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "sac_layout": (ctypes.POINTER(_Field), ()),
    "sac_best_copy": (_I32, ()),
    "sac_best_flush": (_I32, ()),
    "sac_best_invalidate": (_I32, ()),
    "sac_gather": (_I64, (_P,)),
    "sac_scatter": (_I64, (_P,)),
    "sac_copy_bytes": (None, (_P, _P, _I64, _P)),
    "sac_flush": (None, (_P, _I64, _I32)),
    "sac_fence": (None, ()),
    "sac_bind_node": (_I32, (_P, ctypes.c_uint64, _I32)),
    "sac_page_nodes": (_I32, (_P, ctypes.c_uint64, _P)),
    "sac_top_k": (_I64, (_P, _I64, _I64, _P, _I32)),
    "sac_plan": (_I64, (_P, _P)),
    "sac_fetch": (_I64, (_P, _P, _P)),
    "sac_index_add": (_I64, (_P, _P, _I64)),
    "sac_index_remove": (None, (_P, _P, _I64)),
    "sac_index_find": (None, (_P, _P, _I64, _P)),
    "sac_checksums": (None, (_P, _I64, _I64, _P, _P, _I64, _P)),
    "sac_check_entries": (_I64, (_P, _P, _I64, ctypes.c_uint64, _P)),
    "sac_crc32c": (ctypes.c_uint32, (_P, _I64, _I32)),
    "sac_seal_rows": (None, (_P, _I64, _I64, _P, _I32)),
    "sac_open_rows": (_I64, (_P, _I64, _I64, _P, _P, _P, _P, _I32)),
    "sac_team_start": (_P, (_P, _I32)),
    "sac_team_gather": (_I64, (_P, _P)),
    "sac_team_stop": (None, (_P,)),
}


@cache
def load() -> Any:
    """The loaded library, compiled first if there is none of these sources. Raises StoreError where it cannot be compiled, or
    where a struct of sac.h is not the one here."""
    try:
        loaded = ctypes.CDLL(str(LIBRARY.path()))
    except CompilerError as error:
        raise StoreError(f"native library: {error}") from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    require_same_structs(loaded, STRUCTS)
    return loaded


def require_same_structs(loaded: Any, structs: Mapping[str, type[ctypes.Structure]]) -> None:
    """Compare our structs, by their names in sac.h, with what the library was compiled with. Raises StoreError naming the first
    struct or field that differs."""
    compiled = _compiled_fields(loaded)
    ours = {name: (0, ctypes.sizeof(struct)) for name, struct in structs.items()}
    for name, struct in structs.items():
        for field, *_ in struct._fields_:
            place = getattr(struct, field)
            ours[f"{name}.{field}"] = (place.offset, place.size)
    # Fields first: which of them has moved says more than the size of the whole.
    for name in sorted(ours | compiled, key=lambda name: ("." not in name, ours.get(name, (0, 0)))):
        if ours.get(name) != compiled.get(name):
            raise StoreError(
                f"native library: struct {name}: (offset, bytes) is {ours.get(name)} in sac_runtime/native/__init__.py, "
                f"{compiled.get(name)} in sac.h; make both say the same"
            )


def _compiled_fields(loaded: Any) -> dict[str, tuple[int, int]]:
    """(offset, bytes) by `struct` and by `struct.field`, as sac_layout has them."""
    fields: dict[str, tuple[int, int]] = {}
    entries = loaded.sac_layout()
    index = 0
    while (entry := entries[index]).structure is not None:
        name = entry.structure.decode() + (f".{entry.field.decode()}" if entry.field else "")
        fields[name] = (entry.offset, entry.size)
        index += 1
    return fields


def address(array: NDArray[Any]) -> int:
    """Address of the first byte of a C-contiguous array; valid while the array lives."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    except (TypeError, ValueError):  # read-only, or without bytes: numpy's own way takes three times as long
        return int(array.ctypes.data)


@cache
def best_copy() -> Copy:
    """The widest copy that this CPU can do."""
    return Copy(load().sac_best_copy())


def isa() -> str:
    """Name of the instruction set that rows are copied with on this CPU."""
    return best_copy().name.lower()


def line_instructions(narrow: bool) -> tuple[int, int]:
    """The instructions that flush and invalidate lines here; narrow: clflush alone, which every hypervisor emulates."""
    if narrow:
        return 0, 0
    return load().sac_best_flush(), load().sac_best_invalidate()


def bind_node(start: int, size_bytes: int, node: int) -> None:
    """Bind pages to a NUMA node and move those that exist. Raises StoreError with the kernel's word."""
    status = load().sac_bind_node(start, size_bytes, node)
    if status:
        raise StoreError(f"numa node {node}: mbind of {size_bytes} bytes refused: {os.strerror(-status)}")


def page_nodes(pages: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Node of each page, by address; negative errno for a page that was never touched. Raises StoreError."""
    nodes = np.empty(pages.size, np.int32)
    status = load().sac_page_nodes(address(pages), pages.size, address(nodes))
    if status:
        raise StoreError(f"numa: move_pages over {pages.size} pages refused: {os.strerror(-status)}")
    return nodes


class Team:
    """Threads pinned to `cpus` that share a gather with its caller. Callers take turns; close() ends the threads."""

    def __init__(self, cpus: Sequence[int]) -> None:
        pinned = np.asarray(cpus, np.int32)
        self._turn = threading.Lock()
        self._library = load()
        self._handle = self._library.sac_team_start(address(pinned), pinned.size)
        if not self._handle:
            raise StoreError(f"gather threads: cannot pin to CPUs {list(cpus)}; this process may use those of `nproc`")

    def gather(self, call: int) -> int:
        """call: address of a RowsCall. Returns as sac_gather does."""
        with self._turn:
            return int(self._library.sac_team_gather(self._handle, call))

    def close(self) -> None:
        if self._handle:
            self._library.sac_team_stop(self._handle)
            self._handle = None

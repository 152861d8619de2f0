"""The injector's C part: dependent reads stalled to a latency. Knows ctypes and the compiler, no stores.

Built on first use into this folder, or again when the source has changed."""

import ctypes
import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from emulation.errors import MachineError

_SOURCE = Path(__file__).parent / "stall.c"
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden", "-shared")


def chase(rows_address: int, stride_bytes: int, row: int, num_reads: int, latency_ns: float) -> tuple[int, int, int]:
    """Follow a chain of rows whose first 8 bytes number the next, each read stalled to `latency_ns` (0: not at all).
    Returns (elapsed ns, reads that memory was too slow for, row where the chain stands).
    The addresses are not checked: the caller knows that every number in the chain is a row."""
    at, late = ctypes.c_int64(row), ctypes.c_int64(0)
    ticks = round(latency_ns * _ticks_per_ns())
    elapsed_ns = _load().timing_chase(
        rows_address, stride_bytes, ctypes.byref(at), num_reads, ticks, ctypes.byref(late)
    )
    return int(elapsed_ns), late.value, at.value


@cache
def _ticks_per_ns() -> float:
    return float(_load().timing_ticks_per_ns())


@cache
def _load() -> Any:
    loaded = ctypes.CDLL(str(_build()))
    pointer, int64 = ctypes.POINTER(ctypes.c_int64), ctypes.c_int64
    loaded.timing_ticks_per_ns.restype = ctypes.c_double
    loaded.timing_chase.restype = int64
    loaded.timing_chase.argtypes = (ctypes.c_void_p, int64, pointer, int64, ctypes.c_uint64, pointer)
    return loaded


def _build() -> Path:
    """The library of this very source; its name carries the source's hash, so that a stale one is never loaded."""
    digest = hashlib.sha256(" ".join(_FLAGS).encode() + _SOURCE.read_bytes()).hexdigest()[:16]
    library = _SOURCE.with_name(f"libstall-{digest}.so")
    if library.exists():
        return library
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        raise MachineError("injector: no C compiler; install one (apt-get install gcc libc6-dev) or set CC")
    unfinished = library.with_name(f".libstall.{os.getpid()}.so")
    command = [compiler, *_FLAGS, "-o", str(unfinished), str(_SOURCE)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise MachineError(f"injector: {' '.join(command)} ended with {result.returncode}:\n{result.stderr}")
    unfinished.replace(library)
    return library

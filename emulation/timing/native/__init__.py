"""What Python is too slow for: dependent reads stalled to a latency, and streams. Knows ctypes, no stores."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

from emulation.errors import InputError, MachineError
from sac_runtime.native.library import CompilerError, NativeLibrary

LIBRARY = NativeLibrary("timing", Path(__file__).parent)


def chase(
    rows_address: int, num_rows: int, stride_bytes: int, row: int, num_reads: int, latency_ns: float
) -> tuple[int, int, int]:
    """Follow a chain of rows whose first 8 bytes number the next, each read stalled to `latency_ns` (0: not at all).
    Returns (elapsed ns, reads that memory was too slow for, row where the chain stands).
    Raises InputError where the chain leads outside [0, num_rows)."""
    at, late = ctypes.c_int64(row), ctypes.c_int64(0)
    ticks = round(latency_ns * _ticks_per_ns())
    elapsed_ns = _load().timing_chase(
        rows_address, num_rows, stride_bytes, ctypes.byref(at), num_reads, ticks, ctypes.byref(late)
    )
    if elapsed_ns < 0:
        raise InputError(
            f"chase: a row leads to row {at.value} outside [0, {num_rows}); write a chain into the store first"
        )
    return int(elapsed_ns), late.value, at.value


BLOCK_BYTES = 64 << 10  # a stream moves whole blocks of this size


class Stream:
    """One thread's pass over memory, again and again; run() returns after stop(), which any thread may call."""

    def __init__(self) -> None:
        self._stop = ctypes.c_int32(0)

    def run(self, address: int, size_bytes: int, write: bool = False, pace_ns: int = 0) -> int:
        """Read (or overwrite) [address, address + size_bytes) in whole blocks, one each `pace_ns` at the most (0: as fast
        as memory gives). Returns bytes moved. The address is not checked."""
        assert size_bytes > 0 and size_bytes % BLOCK_BYTES == 0
        total = ctypes.c_uint64(0)
        moved = _load().timing_stream(
            address, size_bytes, write, pace_ns, ctypes.byref(self._stop), ctypes.byref(total)
        )
        return int(moved)

    def stop(self) -> None:
        self._stop.value = 1


@cache
def _ticks_per_ns() -> float:
    return float(_load().timing_ticks_per_ns())


@cache
def _load() -> Any:
    try:
        loaded = ctypes.CDLL(str(LIBRARY.path()))
    except CompilerError as error:
        raise MachineError(f"injector: {error}") from error
    pointer, int64 = ctypes.POINTER(ctypes.c_int64), ctypes.c_int64
    loaded.timing_ticks_per_ns.restype = ctypes.c_double
    loaded.timing_chase.restype = int64
    loaded.timing_chase.argtypes = (ctypes.c_void_p, int64, int64, pointer, int64, ctypes.c_uint64, pointer)
    loaded.timing_stream.restype = int64
    loaded.timing_stream.argtypes = (
        ctypes.c_void_p,
        int64,
        ctypes.c_int32,
        int64,
        ctypes.POINTER(ctypes.c_int32),
        ctypes.POINTER(ctypes.c_uint64),
    )
    return loaded

"""Listed rows at a pace, and how long that took by the device's events: host memory that shows another tier's time.
Knows no tiers.

The pace is kept inside the kernel, by the device's global timer; what a launch takes beyond it is measured first and taken off."""

import ctypes
from functools import cache
from statistics import median

import torch

from sac_runtime.gpu.compiler import FOLDER, compile_cubin
from sac_runtime.gpu.device import Kernel
from sac_runtime.gpu.pace import AS_IT_COMES, Pace
from sac_runtime.gpu.registration import RegisteredStore
from sac_runtime.gpu.swap import swap_defines
from sac_runtime.rows.layout import KvLayout

THREADS = 512
BLOCKS = 32
OVERHEAD_ROUNDS = 51
_QUEUE_CYCLES = 200_000
OVERHEAD_PACE = Pace(50_000, 0)  # long beside a launch, and beside one row


class PacedGather:
    """Gathers rows of a registered store into `out` no faster than a pace, and times each."""

    def __init__(self, store: RegisteredStore, most_rows: int) -> None:
        self._store = store
        self._kernel = listed_kernel(store.layout)
        self._rows = torch.zeros(most_rows, dtype=torch.int64, device=store.device)
        self.out = torch.empty((most_rows, store.layout.row_bytes), dtype=torch.uint8, device=store.device)
        self.overhead_ns = self._overhead_ns()

    def gather(self, rows: torch.Tensor, pace: Pace = AS_IT_COMES) -> int:
        """Row rows[i] of the store into out[i]; elapsed ns by CUDA events, the launch included. rows: (n,) int64 on the CPU."""
        self._rows[: len(rows)] = rows.to(self._rows.device)
        if pace != AS_IT_COMES:
            pace = Pace(max(pace.first_ns - self.overhead_ns, 1), pace.row_ps)
        return self._elapsed_ns(len(rows), pace)

    def _elapsed_ns(self, num_rows: int, pace: Pace) -> int:
        argument = ListedArgument(self._store.rows_address, self._rows.data_ptr(), self.out.data_ptr(), num_rows, *pace)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        torch.cuda._sleep(_QUEUE_CYCLES)  # type: ignore[no-untyped-call]  # what follows is queued before any of it begins
        begin.record()
        self._kernel.launch(BLOCKS, THREADS, [argument])
        end.record()
        end.synchronize()
        return int(begin.elapsed_time(end) * 1e6)

    def _overhead_ns(self) -> int:
        times = [self._elapsed_ns(1, OVERHEAD_PACE) for _ in range(OVERHEAD_ROUNDS)]
        return round(median(times)) - OVERHEAD_PACE.first_ns


class ListedArgument(ctypes.Structure):
    """`struct Listed` of native/listed.cu."""

    _fields_ = (
        ("pool", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("first_ns", ctypes.c_int64),
        ("row_ps", ctypes.c_int64),
    )


@cache
def listed_kernel(layout: KvLayout) -> Kernel:
    """native/listed.cu for rows of a layout, compiled for the current device once per process. Raises GpuError."""
    names = ("THREADS", "CHUNK", "ROW_CHUNKS", "STRIDE_CHUNKS", "ROWS")
    defines = [each for each in swap_defines(1, 1, layout, 1, THREADS) if each[0] in names]
    major, minor = torch.cuda.get_device_capability()
    return Kernel(compile_cubin(FOLDER / "listed.cu", defines, f"sm_{major}{minor}"), "gather_listed", 0)

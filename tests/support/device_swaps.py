"""The two ways of a swap-in, without a GPU: Triton's interpreter, and native/swap.cu compiled for the CPU."""

import ctypes
import subprocess
from functools import cache
from pathlib import Path

import torch

from sac_runtime.gpu.buffers import BatchBuffers
from sac_runtime.gpu.compiler import FOLDER
from sac_runtime.gpu.registration import RegisteredStore
from sac_runtime.gpu.swap import CudaSwap, Gatherers, SwapArgument, TritonSwap, swap_defines

CPU = torch.device("cpu")
SHIM_FOLDER = Path(__file__).parent
ROWS_IN_FLIGHT = 2


class CpuKernel:
    """native/swap.cu with one thread per block, block after block."""

    def __init__(self, library):
        self._library = library

    def launch(self, blocks, threads, arguments):
        assert self._library.argument_bytes() == ctypes.sizeof(SwapArgument)
        self._library.launch(ctypes.byref(arguments[0]), blocks)


@cache
def cpu_kernel(top_k, capacity, layout):
    defines = [f"-D{name}={value}" for name, value in swap_defines(top_k, capacity, layout, ROWS_IN_FLIGHT, 1)]
    made = SHIM_FOLDER / f"swap-{abs(hash((top_k, capacity, layout)))}.so"
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-DCUDA_ON_CPU", "-x", "c++", "-", "-o", str(made)]
    folders = [f"-I{FOLDER}", f"-I{SHIM_FOLDER}"]
    subprocess.run([*command, *folders, *defines], input=b'#include "swap.cu"\nLAUNCH_ON_CPU\n', check=True)
    library = ctypes.CDLL(str(made))
    made.unlink()
    return CpuKernel(library)


def triton_swap(store: RegisteredStore, buffers: BatchBuffers):
    return TritonSwap(store, buffers)


def cuda_swap(store: RegisteredStore, buffers: BatchBuffers):
    if buffers.device.type == "cuda":
        return CudaSwap(store, buffers)
    shape = buffers.shape
    kernel = cpu_kernel(shape.top_k, shape.capacity, buffers.layout)
    return CudaSwap(store, buffers, kernel=kernel, gatherers=Gatherers(2, 1), threads=1)

"""Whether there is a GPU, which one, and the driver's calls that torch does not offer. The one home of libcuda.

Knows devices, memory to register, compiled modules and launches; knows no rows and no plans."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from sac_runtime.errors import GpuError

PORTABLE, DEVICE_MAP, IO_MEMORY = 1, 2, 4  # flags of cuMemHostRegister
_DYNAMIC_SHARED_BYTES = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_P, _I = ctypes.c_void_p, ctypes.c_uint
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuMemHostRegister_v2": (_P, ctypes.c_size_t, _I),
    "cuMemHostUnregister": (_P,),
    "cuMemHostGetDevicePointer_v2": (ctypes.POINTER(ctypes.c_uint64), _P, _I),
    "cuModuleLoadData": (ctypes.POINTER(_P), ctypes.c_char_p),
    "cuModuleGetFunction": (ctypes.POINTER(_P), _P, ctypes.c_char_p),
    "cuFuncSetAttribute": (_P, ctypes.c_int, ctypes.c_int),
    "cuLaunchKernel": (_P, _I, _I, _I, _I, _I, _I, _I, _P, _P, _P),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


def require_gpu() -> torch.device:
    """The device of this process, ready for use. Raises GpuError where there is none that torch can use."""
    if not torch.cuda.is_available():
        built = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
        raise GpuError(f"gpu: {built}; what runs on a GPU needs one of NVIDIA's, its driver and a torch with CUDA")
    device = torch.device("cuda", torch.cuda.current_device())
    torch.empty(1, device=device)  # makes the context current in this thread
    return device


@cache
def driver() -> Any:
    """libcuda, with the signatures of what is called here. Raises GpuError where it cannot be loaded."""
    try:
        loaded = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise GpuError(f"gpu: {error}; the driver's library is missing") from error
    for name, arguments in _SIGNATURES.items():
        getattr(loaded, name).argtypes = arguments
    return loaded


def call(name: str, *arguments: Any) -> None:
    """One call of the driver. Raises GpuError with the driver's own word."""
    status = getattr(driver(), name)(*arguments)
    if status:
        word = ctypes.c_char_p()
        driver().cuGetErrorName(status, ctypes.byref(word))
        raise GpuError(f"gpu: {name} failed: {(word.value or b'unknown').decode()} ({status})")


class Kernel:
    """A function of a compiled module, ready to launch on torch's current stream."""

    def __init__(self, image: bytes, name: str, shared_bytes: int) -> None:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        call("cuModuleLoadData", ctypes.byref(module), image)
        call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        call("cuFuncSetAttribute", function, _DYNAMIC_SHARED_BYTES, shared_bytes)
        self._module = module  # holds the function
        self._function = function
        self._shared_bytes = shared_bytes

    def launch(self, blocks: int, threads: int, arguments: Sequence[ctypes.Structure]) -> None:
        """Queue a launch; the arguments are copied before this returns. Raises GpuError."""
        places = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(each) for each in arguments))
        stream = torch.cuda.current_stream().cuda_stream
        call("cuLaunchKernel", self._function, blocks, 1, 1, threads, 1, 1, self._shared_bytes, stream, places, None)

"""CUDA C++ compiled at run time, by NVRTC, which torch's CUDA packages bring. Knows sources and options; knows no kernel."""

import ctypes
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sac_runtime.errors import GpuError

FOLDER = Path(__file__).parent / "native"
_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


def compile_cubin(source: Path, defines: Sequence[tuple[str, int]], architecture: str) -> bytes:
    """Machine code of `source` for an architecture such as `sm_90`. Raises GpuError with the compiler's log."""
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    text = source.read_bytes()
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None), "create")
    options = [f"--gpu-architecture={architecture}", f"--include-path={source.parent}", "--std=c++17"]
    options += [f"-D{name}={value}" for name, value in defines]
    words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    if nvrtc.nvrtcCompileProgram(program, len(options), words):
        raise GpuError(f"gpu: {source.name} does not compile for {architecture}: {_log(nvrtc, program)}")
    size = ctypes.c_size_t()
    _check(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)), "size")
    image = ctypes.create_string_buffer(size.value)
    _check(nvrtc.nvrtcGetCUBIN(program, image), "image")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return image.raw


def _log(nvrtc: Any, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    return log.value.decode(errors="replace")


def _check(status: int, what: str) -> None:
    if status:
        raise GpuError(f"gpu: NVRTC: {what} failed with status {status}")


@cache
def _nvrtc() -> Any:
    """The library: where the loader finds it, else beside torch in a package of NVIDIA's, else in a CUDA toolkit."""
    packages = sorted(path for folder in sys.path for path in Path(folder).glob("nvidia/*/lib/libnvrtc.so.*"))
    toolkits = sorted(Path("/usr/local").glob("cuda*/lib64/libnvrtc.so.*"), reverse=True)
    for name in [*_NAMES, *map(str, packages), *map(str, toolkits)]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise GpuError("gpu: libnvrtc is neither beside torch nor in a CUDA toolkit; install nvidia-cuda-nvrtc")

"""A store's mapping, registered with CUDA: a kernel then reads and writes the pool's rows where they lie. Knows addresses, no rows.

Any `MappedStore` will do: device DAX (CXL or persistent memory), a shared file, a NUMA node, anonymous memory. On the CPU, where
Triton's interpreter runs kernels, nothing need be registered.

What a kernel has written is in the memory that all hosts see once its stream is synchronised: then the pool's own flush and
publication follow, by the CPU, as after writes of its own (docs/pool-protocol.md)."""

import ctypes
from types import TracebackType
from typing import Self

import torch

from sac_runtime.errors import GpuError
from sac_runtime.gpu.device import DEVICE_MAP, IO_MEMORY, PORTABLE, call
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import KvLayout


class RegisteredStore:
    """A mapped store as a device sees it; a context manager that ends the registration and leaves the store open.

    Registering pins every page: 12 to 23 GiB/s on the machine of docs/gpu.md. Raises GpuError where the driver refuses."""

    def __init__(self, store: MappedStore, device: torch.device) -> None:
        self.store = store
        self.device = device
        self._address = store.address if device.type == "cpu" else _register(store)
        self._open = True

    @property
    def layout(self) -> KvLayout:
        return self.store.layout

    @property
    def num_rows(self) -> int:
        return self.store.num_rows

    @property
    def rows_address(self) -> int:
        """Address of row 0, for kernels. Raises GpuError once closed."""
        if not self._open:
            raise GpuError(f"store {self.store.name!r}: its registration is closed; a kernel may not touch it")
        return self._address + self.store.rows_offset

    def close(self) -> None:
        """Wait for the device, and unregister. A second close does nothing."""
        if not self._open:
            return
        self._open = False
        if self.device.type != "cpu":
            torch.cuda.synchronize(self.device)
            call("cuMemHostUnregister", self.store.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _register(store: MappedStore) -> int:
    """Returns the device's address of the mapping. A device node whose memory has no pages is registered as I/O memory."""
    flags = PORTABLE | DEVICE_MAP
    torch.cuda.synchronize()  # makes torch's context current in this thread
    try:
        call("cuMemHostRegister_v2", store.address, store.size_bytes, flags)
    except GpuError:
        call("cuMemHostRegister_v2", store.address, store.size_bytes, flags | IO_MEMORY)
    address = ctypes.c_uint64()
    call("cuMemHostGetDevicePointer_v2", ctypes.byref(address), store.address, 0)
    return address.value

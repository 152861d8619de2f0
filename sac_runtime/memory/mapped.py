"""`MappedStore`: a KvStore over memory of this machine. Knows addresses, rows and cache lines; knows no layers, requests or
modelled time."""

import ctypes
import mmap
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import numpy as np
from numpy.typing import NDArray

from sac_runtime import native
from sac_runtime.errors import GeometryError, RowRangeError, StoreError
from sac_runtime.label import Label
from sac_runtime.memory.arrays import bytes_address, require_numbers, require_packed, require_writable
from sac_runtime.memory.gather import TwoStepGather
from sac_runtime.memory.mapping import (
    dax_size_bytes,
    huge_page_bytes,
    map_file,
    map_memory,
    map_node,
    opened_file,
    require_node,
)
from sac_runtime.memory.store import Plan, SlotGather, StepPlanner, StoreOptions
from sac_runtime.rows.doors import described, require_whole
from sac_runtime.rows.layout import PAGE_BYTES, ByteArray, IntArray, KvLayout
from sac_runtime.rows.placement import LayerRows

DEFAULT_PREFETCH_ROWS = 4  # measured: scripts/bench/gather.py --sweep
MOST_PREFETCH_ROWS = 2**31 - 1  # an int32 of sac.h
MIN_ROWS_FOR_TEAM = 128  # below, waking a thread costs more than it saves; scripts/bench/gather.py


class MappedStore:
    """A KvStore over mapped memory: anonymous, a shared file, a DAX device or a NUMA node. Made by its class methods.

    Times are wall clock; `label` is whatever the caller knows of the memory."""

    def __init__(
        self,
        memory: mmap.mmap,
        name: str,
        layout: KvLayout,
        num_rows: int,
        metadata_bytes: int = 0,
        *,
        label: Label = Label.FUNCTIONAL,
        copy: native.Copy | None = None,
        gather_cpus: Sequence[int] = (),
        prefetch_rows: int = DEFAULT_PREFETCH_ROWS,
    ) -> None:
        if len(memory) < _size_bytes(name, layout, num_rows, metadata_bytes):
            raise GeometryError(f"store {name!r}: num_rows={num_rows} exceeds the mapping of {len(memory)} bytes")
        require_whole(f"store {name!r}", "prefetch_rows", prefetch_rows, 0, MOST_PREFETCH_ROWS)
        if layout.check_bytes:
            raise GeometryError(
                f"store {name!r}: layout {layout.name!r} has check_bytes={layout.check_bytes}, which this store does not know; "
                "map layout.carrier and wrap it: CheckedStore(MappedStore...(layout=layout.carrier), layout)"
            )
        self.name = name
        self.layout = layout
        self.num_rows = num_rows
        self.rows_offset = metadata_bytes
        self.size_bytes = len(memory)
        self.label = label
        self.copy = native.best_copy() if copy is None else copy
        self.prefetch_rows = prefetch_rows
        self._library = native.load()
        self._memory = memory
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._flush_kind, self._invalidate_kind = native.line_instructions(narrow=self.copy is native.Copy.NARROW)
        self._team = native.Team(gather_cpus) if gather_cpus else None

    @classmethod
    def anonymous(
        cls,
        layout: KvLayout,
        num_rows: int,
        huge_pages: bool = True,
        metadata_bytes: int = 0,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """Private memory of this process. huge_pages: ask for them by madvise; huge_page_bytes() says what came.
        options: those of StoreOptions, here and in the other class methods."""
        size_bytes = _size_bytes("anonymous", layout, num_rows, metadata_bytes)
        memory = map_memory(-1, size_bytes, "anonymous", huge_pages)
        return cls(memory, "anonymous", layout, num_rows, metadata_bytes, **options)

    @classmethod
    def shared(
        cls,
        path: str | Path,
        *,
        layout: KvLayout,
        num_rows: int | None = None,
        metadata_bytes: int = 0,
        huge_pages: bool = False,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """A file (on /dev/shm, hugetlbfs or a disk) that several processes map, made where it is missing or empty.

        num_rows None: as many as an existing file holds. Raises StoreError if an existing file is too small."""
        name = str(path)
        with opened_file(name, create=num_rows is not None) as descriptor:
            if num_rows is None:
                num_rows = _rows_that_fit(name, layout, os.fstat(descriptor).st_size, metadata_bytes)
            size_bytes = _size_bytes(name, layout, num_rows, metadata_bytes)
            memory = map_file(descriptor, size_bytes, name, huge_pages)
        return cls(memory, name, layout, num_rows, metadata_bytes, **options)

    @classmethod
    def dax(
        cls,
        path: str | Path,
        *,
        layout: KvLayout,
        num_rows: int | None = None,
        metadata_bytes: int = 0,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """A device-DAX node, /dev/daxN.M: CXL or persistent memory, mapped whole.

        num_rows None: as many as the device holds. copy: Copy.NARROW if the memory is emulated, as in a guest of QEMU."""
        name = str(path)
        device_bytes = dax_size_bytes(name)
        num_rows = _rows_that_fit(name, layout, device_bytes, metadata_bytes) if num_rows is None else num_rows
        if _size_bytes(name, layout, num_rows, metadata_bytes) > device_bytes:
            raise StoreError(f"store {name!r}: num_rows={num_rows} needs more than the device's {device_bytes} bytes")
        with opened_file(name) as descriptor:
            memory = map_memory(descriptor, device_bytes, name)
        return cls(memory, name, layout, num_rows, metadata_bytes, **options)

    @classmethod
    def numa(
        cls,
        node: int,
        layout: KvLayout,
        num_rows: int,
        huge_pages: bool = True,
        metadata_bytes: int = 0,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """Anonymous memory bound to one NUMA node; pages_by_node() verifies where it lies. Raises StoreError."""
        name = f"numa node {node}"
        require_node(node, name)
        memory = map_node(node, _size_bytes(name, layout, num_rows, metadata_bytes), name, huge_pages)
        return cls(memory, name, layout, num_rows, metadata_bytes, **options)

    @property
    def address(self) -> int:
        """Address of the mapping's first byte, for a GPU driver to register. Raises StoreError once closed."""
        if self._memory.closed:
            raise StoreError(f"store {self.name!r}: is closed")
        return self._base

    @property
    def rows_address(self) -> int:
        """Address of row 0. Raises StoreError once closed."""
        if self._memory.closed:
            raise StoreError(f"store {self.name!r}: is closed")
        return self._base + self.rows_offset

    def read_rows(self, rows: IntArray, out: ByteArray) -> int:
        """As KvStore.read_rows."""
        require_numbers(self.name, "rows", rows)
        require_packed(self.name, "out", out, (rows.size, self.layout.row_bytes))
        require_writable("out", out)
        return self._move(self._gather(rows), rows, out, None)

    def read_rows_into_slots(self, rows: IntArray, buffer: ByteArray, slots: IntArray) -> int:
        """Gather row rows[i] straight into buffer[slots[i]]: read_rows without the second copy.
        rows, slots: (n,) int64; buffer: (B, layout.row_bytes) uint8, C-contiguous. Returns and raises as read_rows."""
        require_numbers(self.name, "rows", rows)
        require_numbers(self.name, "slots", slots)
        self._require_slots("buffer", buffer)
        if slots.shape != rows.shape:
            raise GeometryError(
                f"store {self.name!r}: slots has shape {slots.shape}, rows {rows.shape}; one slot per row"
            )
        return self._move(self._gather(rows), rows, buffer, slots)

    def slot_gather(self, buffer: StepPlanner, slots: ByteArray) -> SlotGather:
        """As KvStore.slot_gather: one native call per step, two where threads share the gathers."""
        self._require_slots("slots", slots)
        if self._team:
            return TwoStepGather(self.read_rows_into_slots, buffer, slots)
        return MappedGather(self, self._call(None, 0, slots, None), buffer, slots)

    def write_rows(self, rows: IntArray, values: ByteArray) -> int:
        """As KvStore.write_rows."""
        require_numbers(self.name, "rows", rows)
        require_packed(self.name, "values", values, (rows.size, self.layout.row_bytes))
        return self._move(self._library.sac_scatter, rows, values, None)

    def read_bytes(self, offset: int, out: ByteArray) -> None:
        """As KvStore.read_bytes."""
        address = bytes_address("out", out)
        require_writable("out", out)
        start = self._range(offset, out.size)
        self._library.sac_copy_bytes(address, start, out.size, self._device(start))

    def write_bytes(self, offset: int, values: ByteArray) -> None:
        """As KvStore.write_bytes."""
        address = bytes_address("values", values)
        start = self._range(offset, values.size)
        self._library.sac_copy_bytes(start, address, values.size, self._device(start))

    def flush(self, offset: int, size_bytes: int) -> None:
        """As KvStore.flush, by clwb, clflushopt or clflush, whichever the CPU has first."""
        self._library.sac_flush(self._range(offset, size_bytes), size_bytes, self._flush_kind)

    def invalidate(self, offset: int, size_bytes: int) -> None:
        """As KvStore.invalidate, by clflushopt or clflush: a dirty line is written back before it is dropped."""
        self._library.sac_flush(self._range(offset, size_bytes), size_bytes, self._invalidate_kind)

    def fence(self) -> None:
        """As KvStore.fence."""
        self._library.sac_fence()

    def huge_page_bytes(self) -> int:
        """How much of the mapping the kernel backs by huge pages now (memory never touched has no pages yet). At least that
        much, where the kernel has merged the mapping with neighbours."""
        return huge_page_bytes(Path("/proc/self/smaps").read_text(), self.address, self.address + self.size_bytes)

    def pages_by_node(self, samples: int = 4096) -> dict[int, int]:
        """NUMA node -> how many of up to `samples` evenly spaced pages lie on it. Pages never touched are left out."""
        pages = self.size_bytes // PAGE_BYTES
        sample = np.arange(0, pages, max(1, pages // samples), dtype=np.uint64)
        addresses: NDArray[np.uint64] = sample * np.uint64(PAGE_BYTES) + np.uint64(self.address)
        nodes = native.page_nodes(addresses)
        return dict(Counter(int(node) for node in nodes if node >= 0))

    def close(self) -> None:
        """Unmap; a second close does nothing."""
        if self._team:
            self._team.close()
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _gather(self, rows: IntArray) -> Callable[[int], int]:
        if self._team and rows.shape[0] >= MIN_ROWS_FOR_TEAM:
            return self._team.gather
        return self._library.sac_gather  # type: ignore[no-any-return]

    def _move(self, move: Callable[[int], int], rows: IntArray, packed: ByteArray, slots: IntArray | None) -> int:
        call = self._call(native.address(rows), rows.shape[0], packed, None if slots is None else native.address(slots))
        start_ns = time.perf_counter_ns()
        outside = move(ctypes.addressof(call))
        elapsed_ns = time.perf_counter_ns() - start_ns
        if outside:
            raise self.row_error(outside - 1, rows, slots, packed.shape[0])
        return elapsed_ns

    def _call(self, rows: int | None, num_rows: int, packed: ByteArray, slots: int | None) -> native.RowsCall:
        return native.RowsCall(
            store=self.rows_address,
            num_rows=self.num_rows,
            stride=self.layout.stride_bytes,
            row_bytes=self.layout.row_bytes,
            rows=rows,
            n=num_rows,
            packed=native.address(packed),
            slots=slots,
            num_slots=packed.shape[0],
            prefetch=self.prefetch_rows,
            copy=self.copy,
        )

    def row_error(self, entry: int, rows: IntArray, slots: IntArray | None, num_slots: int) -> RowRangeError:
        """What is wrong with the entry that a native gather refused."""
        if slots is not None and 0 <= rows[entry] < self.num_rows:
            return RowRangeError(f"store {self.name!r}: slots[{entry}]={slots[entry]} lies outside [0, {num_slots})")
        return RowRangeError(f"store {self.name!r}: rows[{entry}]={rows[entry]} lies outside [0, {self.num_rows})")

    def _range(self, offset: int, size_bytes: int) -> int:
        if type(offset) is not int or type(size_bytes) is not int:
            require_whole(f"store {self.name!r}", "offset", offset)
            require_whole(f"store {self.name!r}", "size_bytes", size_bytes)
        if not (offset >= 0 and size_bytes >= 0 and offset + size_bytes <= self.size_bytes):
            raise RowRangeError(
                f"store {self.name!r}: bytes [{offset}, {offset + size_bytes}) lie outside [0, {self.size_bytes})"
            )
        return self.address + int(offset)

    def _require_slots(self, field: str, slots: ByteArray) -> None:
        if not isinstance(slots, np.ndarray) or slots.ndim != 2:
            raise GeometryError(f"store {self.name!r}: {field} is {described(slots)}; it must be of two dimensions")
        require_packed(self.name, field, slots, (len(slots), self.layout.row_bytes))
        require_writable(field, slots)

    def _device(self, start: int) -> int | None:
        return start if self.copy is native.Copy.NARROW else None


class MappedGather:
    """A step of one hot buffer in one native call: between two, an interpreter finds its code and objects evicted by the rows
    that came. Made by MappedStore.slot_gather."""

    def __init__(self, store: MappedStore, rows: native.RowsCall, buffer: StepPlanner, slots: ByteArray) -> None:
        self._store = store
        self._rows = rows  # holds the address of `slots`; the call fills in rows and slots
        self._buffer = buffer
        self._slots = slots
        self._sac_fetch = native.load().sac_fetch

    def fetch(self, topk: IntArray, length: int, place: LayerRows) -> tuple[Plan, int]:
        """As SlotGather.fetch. Raises StoreError, and plans nothing, if the store is closed."""
        place.require_native(length)
        self._rows.store = self._store.rows_address
        plan, step = self._buffer.plan_by(self._run, topk, length, place)
        if step.outside:
            self._buffer.forget()
            rows = place.rows(plan.miss_tokens)
            raise self._store.row_error(step.outside - 1, rows, plan.victim_slots, len(self._slots))
        return plan, step.gather_ns

    def _run(self, buffer: int, step: int) -> int:
        return self._sac_fetch(buffer, step, ctypes.addressof(self._rows))  # type: ignore[no-any-return]


def _size_bytes(name: str, layout: KvLayout, num_rows: int, metadata_bytes: int) -> int:
    """Metadata and rows, in whole pages. Raises GeometryError."""
    if not isinstance(layout, KvLayout):
        raise GeometryError(f"store {name!r}: layout is a {type(layout).__name__}; it must be a KvLayout")
    require_whole(f"store {name!r}", "num_rows", num_rows, 1)
    require_whole(f"store {name!r}", "metadata_bytes", metadata_bytes, -(1 << 62))
    if metadata_bytes < 0 or metadata_bytes % PAGE_BYTES:
        next_multiple = -(-max(metadata_bytes, 0) // PAGE_BYTES) * PAGE_BYTES
        raise GeometryError(
            f"store {name!r}: metadata_bytes={metadata_bytes} is not a multiple of {PAGE_BYTES} (next: {next_multiple})"
        )
    return -(-(metadata_bytes + num_rows * layout.stride_bytes) // PAGE_BYTES) * PAGE_BYTES


def _rows_that_fit(name: str, layout: KvLayout, size_bytes: int, metadata_bytes: int) -> int:
    num_rows = (size_bytes - metadata_bytes) // layout.stride_bytes
    if num_rows < 1:
        raise StoreError(
            f"store {name!r}: size_bytes={size_bytes} leaves no room for a row of {layout.stride_bytes} bytes "
            f"after metadata_bytes={metadata_bytes}"
        )
    return num_rows

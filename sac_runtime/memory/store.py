"""The seam: what the runtime asks of a memory. Knows rows, bytes and cache lines; knows no mapping, no model of time."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, TypedDict, runtime_checkable

from sac_runtime import native
from sac_runtime.label import Label
from sac_runtime.rows.layout import ByteArray, IntArray, KvLayout


@runtime_checkable
class SlotReader(Protocol):
    """A store that gathers straight into slots; others are read into a staging array that is then copied."""

    def read_rows_into_slots(self, rows: IntArray, buffer: ByteArray, slots: IntArray) -> int: ...


class KvStore(Protocol):
    """Rows of one format in one memory, behind a region of metadata. Wrappers add time, stale lines or faults."""

    @property
    def layout(self) -> KvLayout: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def label(self) -> Label:
        """How the times that this store returns came about."""
        ...

    @property
    def rows_offset(self) -> int:
        """Byte offset of row 0; [0, rows_offset) is the metadata region."""
        ...

    @property
    def size_bytes(self) -> int: ...

    def read_rows(self, rows: IntArray, out: ByteArray) -> int:
        """Gather KV rows into `out`.
        rows: (n,) int64; out: (n, layout.row_bytes) uint8, C-contiguous. Returns elapsed ns by the store's clock.
        Raises RowRangeError if a row lies outside the store (then nothing is read). Source: SAC section 4."""
        ...

    def write_rows(self, rows: IntArray, values: ByteArray) -> int:
        """Scatter `values` to KV rows; of equal row numbers the last wins. Shapes and errors as read_rows."""
        ...

    def read_bytes(self, offset: int, out: ByteArray) -> None:
        """Copy [offset, offset + out.size) into `out`. out: (n,) uint8. Raises RowRangeError outside the store."""
        ...

    def write_bytes(self, offset: int, values: ByteArray) -> None:
        """Copy `values` to `offset`. values: (n,) uint8. Raises RowRangeError outside the store."""
        ...

    def flush(self, offset: int, size_bytes: int) -> None:
        """Write the lines of a range back to memory; complete after the next fence()."""
        ...

    def invalidate(self, offset: int, size_bytes: int) -> None:
        """Drop the lines of a range, so that reads after the next fence() come from memory."""
        ...

    def fence(self) -> None:
        """Order all flushes, invalidations, loads and stores before with all after."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class StoreOptions(TypedDict, total=False):
    """label: how times read here come about; default functional. copy: the instruction set, default the CPU's best.
    gather_cpus: CPUs that helper threads of a gather are pinned to, default none. prefetch_rows: how far reads run ahead."""

    label: Label
    copy: native.Copy | None
    gather_cpus: Sequence[int]
    prefetch_rows: int

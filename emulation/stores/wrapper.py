"""A store around a store: forwards everything, so that a wrapper states what it changes and nothing else. Knows the seam alone."""

from types import TracebackType
from typing import Self

from sac_runtime.label import Label
from sac_runtime.memory.store import KvStore, SlotGather, StepPlanner
from sac_runtime.rows.layout import ByteArray, IntArray, KvLayout


class WrapperStore:
    """`store` as it is. A subclass overrides what it changes; closing it closes `store`.

    slot_gather is the one member that is not forwarded: the store's own gather would pass by what a subclass does to
    read_rows. So a fetch comes through read_rows, unless the subclass offers a gather itself."""

    def __init__(self, store: KvStore) -> None:
        self.store = store

    @property
    def layout(self) -> KvLayout:
        return self.store.layout

    @property
    def num_rows(self) -> int:
        return self.store.num_rows

    @property
    def label(self) -> Label:
        return self.store.label

    @property
    def rows_offset(self) -> int:
        return self.store.rows_offset

    @property
    def size_bytes(self) -> int:
        return self.store.size_bytes

    def read_rows(self, rows: IntArray, out: ByteArray) -> int:
        return self.store.read_rows(rows, out)

    def slot_gather(self, buffer: StepPlanner, slots: ByteArray) -> SlotGather | None:
        """None, whatever `store` offers."""
        return None

    def write_rows(self, rows: IntArray, values: ByteArray) -> int:
        return self.store.write_rows(rows, values)

    def read_bytes(self, offset: int, out: ByteArray) -> None:
        self.store.read_bytes(offset, out)

    def write_bytes(self, offset: int, values: ByteArray) -> None:
        self.store.write_bytes(offset, values)

    def flush(self, offset: int, size_bytes: int) -> None:
        self.store.flush(offset, size_bytes)

    def invalidate(self, offset: int, size_bytes: int) -> None:
        self.store.invalidate(offset, size_bytes)

    def fence(self) -> None:
        self.store.fence()

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

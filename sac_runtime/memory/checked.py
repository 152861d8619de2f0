"""`CheckedStore`: rows that carry a checksum from whoever wrote them to whoever uses them. Knows rows and their checks; knows no
pools, layers or time.

A check is four CRC32Cs, of the quarters of a row, seeded with the row's number: a bit or a burst that flipped on the way, halves of
two rows, and a row of another place are noticed, for certain or but for odds of 2^-32. A row that was whole once and is old is
not: that no reader meets one is what the pool's protocol is for."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np

from sac_runtime import native
from sac_runtime.errors import GeometryError, RowCheckError
from sac_runtime.label import Label
from sac_runtime.memory.arrays import require_numbers, require_packed, require_writable
from sac_runtime.memory.gather import TwoStepGather
from sac_runtime.memory.store import KvStore, SlotGather, StepPlanner
from sac_runtime.rows.layout import ByteArray, IntArray, KvLayout

FEWEST_STAGED = 256  # rows

Heal = Callable[[IntArray], ByteArray | None]
"""(rows) -> their right contents, (n, row_bytes) uint8, from a replica or computed anew; None if it has none."""


class CheckedStore:
    """`store` with checks: what is written is sealed, what is read is held to its seal.

    store: over memory of `layout.carrier`; layout: one with check_bytes, as KvLayout.checked() gives. A row that fails is read once
    more from memory itself, then asked of `heal`, and else refused. num_reread, num_healed, num_refused: rows, so far."""

    def __init__(self, store: KvStore, layout: KvLayout, heal: Heal | None = None, plain: bool = False) -> None:
        """plain: count without the CPU's crc32 instruction. Raises GeometryError unless `store` carries rows of `layout`."""
        if not layout.check_bytes or store.layout != layout.carrier:
            raise GeometryError(
                f"checked store: layout {layout} is carried by {layout.carrier}, the store has {store.layout} "
                "(make it with layout=KvLayout.checked().carrier)"
            )
        self.store = store
        self.layout = layout
        self.heal = heal
        self.num_reread = self.num_healed = self.num_refused = 0
        self._plain = int(plain)
        self._own = threading.local()
        self._library = native.load()

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
        """As KvStore.read_rows. Raises RowCheckError for rows that are not what was written and cannot be healed; then `out` must
        not be used."""
        require_numbers("checked", "rows", rows)
        require_packed("checked", "out", out, (rows.size, self.layout.row_bytes))
        require_writable("out", out)
        return self._read(rows, out, None)

    def read_rows_into_slots(self, rows: IntArray, buffer: ByteArray, slots: IntArray) -> int:
        """As read_rows, row rows[i] into buffer[slots[i]]."""
        require_numbers("checked", "rows", rows)
        require_numbers("checked", "slots", slots)
        require_packed("checked", "buffer", buffer, (len(buffer), self.layout.row_bytes))
        if slots.shape != rows.shape or (slots.size and not 0 <= slots.min() <= slots.max() < len(buffer)):
            raise GeometryError(f"checked store: slots must be {rows.size} numbers in [0, {len(buffer)})")
        return self._read(rows, buffer, slots)

    def slot_gather(self, buffer: StepPlanner, slots: ByteArray) -> SlotGather | None:
        """As KvStore.slot_gather: rows go from the staging area into slots as they are checked."""
        require_packed("checked", "slots", slots, (len(slots), self.layout.row_bytes))
        return TwoStepGather(self.read_rows_into_slots, buffer, slots)

    def write_rows(self, rows: IntArray, values: ByteArray) -> int:
        """As KvStore.write_rows."""
        require_numbers("checked", "rows", rows)
        require_packed("checked", "values", values, (rows.size, self.layout.row_bytes))
        sealed = self._staging(rows.size)
        sealed[:, : self.layout.row_bytes] = values
        self._library.sac_seal_rows(
            native.address(sealed), rows.size, self.layout.row_bytes, native.address(rows), self._plain
        )
        return self.store.write_rows(rows, sealed)

    def read_bytes(self, offset: int, out: ByteArray) -> None:
        """As KvStore.read_bytes: unchecked."""
        self.store.read_bytes(offset, out)

    def write_bytes(self, offset: int, values: ByteArray) -> None:
        """As KvStore.write_bytes: rows written so are not sealed."""
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

    def _read(self, rows: IntArray, packed: ByteArray, slots: IntArray | None) -> int:
        staged = self._staging(rows.size)
        elapsed_ns = self.store.read_rows(rows, staged)
        wrong = self._open(staged, rows, packed, slots)
        if wrong.size:
            elapsed_ns += self._mend(rows[wrong], packed, wrong if slots is None else slots[wrong])
        return elapsed_ns

    def _open(self, staged: ByteArray, rows: IntArray, packed: ByteArray, slots: IntArray | None) -> IntArray:
        """Check staged rows and put their payload into `packed`. Returns which failed, (m,) int64."""
        is_wrong = np.empty(rows.size, np.uint8)
        num_wrong = self._library.sac_open_rows(
            native.address(staged),
            rows.size,
            self.layout.row_bytes,
            native.address(rows),
            native.address(packed),
            None if slots is None else native.address(slots),
            native.address(is_wrong),
            self._plain,
        )
        return np.flatnonzero(is_wrong) if num_wrong else np.empty(0, np.int64)

    def _mend(self, rows: IntArray, packed: ByteArray, places: IntArray) -> int:
        """Read failed rows again from memory; heal, or refuse, those that fail again."""
        for row in rows.tolist():
            self.store.invalidate(self.rows_offset + row * self.layout.stride_bytes, self.store.layout.row_bytes)
        self.store.fence()
        staged = np.empty((rows.size, self.store.layout.row_bytes), np.uint8)
        elapsed_ns = self.store.read_rows(np.ascontiguousarray(rows), staged)
        wrong = self._open(staged, np.ascontiguousarray(rows), packed, np.ascontiguousarray(places))
        self.num_reread += rows.size - wrong.size
        if wrong.size:
            self._heal(rows[wrong], packed, places[wrong])
        return elapsed_ns

    def _heal(self, rows: IntArray, packed: ByteArray, places: IntArray) -> None:
        values = self.heal(rows) if self.heal is not None else None
        if values is None:
            self.num_refused += rows.size
            raise RowCheckError(rows.tolist())
        require_packed("checked", "healed rows", values, (rows.size, self.layout.row_bytes))
        packed[places] = values
        self.num_healed += rows.size

    def _staging(self, num_rows: int) -> ByteArray:
        """Room for rows with their checks, this thread's own and used again: fresh pages would cost more than the checks."""
        rows: ByteArray | None = getattr(self._own, "staging", None)
        if rows is None or len(rows) < num_rows:
            rows = self._own.staging = np.empty((max(num_rows, FEWEST_STAGED), self.store.layout.row_bytes), np.uint8)
        return rows[:num_rows]

"""The seam: what the runtime asks of a memory (KvStore), and how it brings rows into slots (SlotGather).

Knows rows, bytes, cache lines and what a plan says; knows no mapping, no rule of a hot buffer, no model of time.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self, TypedDict

from sac_runtime import native
from sac_runtime.label import Label
from sac_runtime.rows.layout import ByteArray, IntArray, KvLayout
from sac_runtime.rows.placement import LayerRows

StepCall = Callable[[int, int], int]
"""A native call that plans and may do more. It takes the addresses of a `struct sac_buffer` and a `struct sac_step`, and returns
what sac_plan does."""


class Plan(NamedTuple):
    """What one step does to a hot buffer; a value.

    slots: (k,) slot of each top-k entry, in the order asked. miss_tokens: (m,) tokens to fetch, in the order asked, and
    victim_slots: (m,) where each goes. compulsory: misses of tokens that never had a slot. newest_slot: where this step's
    own row goes, None without one. All arrays int64."""

    slots: IntArray
    miss_tokens: IntArray
    victim_slots: IntArray
    compulsory: int
    newest_slot: int | None

    @property
    def misses(self) -> int:
        return self.miss_tokens.size

    @property
    def hits(self) -> int:
        """Entries that had a slot, the newest token's included."""
        return self.slots.size - self.miss_tokens.size


class StepPlanner(Protocol):
    """A hot buffer as a gather needs it: sac_runtime.fetch.hot_buffer.HotBuffer, which states the contracts."""

    def plan(self, topk: IntArray, length: int | None = None) -> Plan: ...
    def plan_by(
        self, run: StepCall, topk: IntArray, length: int | None, place: LayerRows | None = None
    ) -> tuple[Plan, native.PlanStep]: ...
    def forget(self) -> None: ...


class SlotGather(Protocol):
    """One hot buffer and its slots over one memory: a step of a layer in one call. See KvStore.slot_gather.

    It may stand for a batch: on a device that plans and loads there, the buffers of all requests are bound together, the
    arrays lie in the device's memory with the requests as first axis, and nothing need wait for the call to end."""

    def fetch(self, topk: IntArray, length: int, place: LayerRows) -> tuple[Plan, int]:
        """Plan a step and bring its misses into their slots.

        topk: (k,) int64 tokens, the newest (length - 1) among them or not; place: where the tokens lie in the store. Returns
        the plan and the elapsed ns of bringing, by the store's clock. Raises GeometryError for a step that cannot be planned
        (then nothing has changed), and what the store raises; then the buffer has forgotten all it held, since its plan no
        longer matches its bytes."""
        ...


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

    def slot_gather(self, buffer: StepPlanner, slots: ByteArray) -> SlotGather | None:
        """The store's own way to bring the misses of `buffer` into `slots`, (B + 1, layout.row_bytes) uint8, C-contiguous.
        None: it has none but read_rows; sac_runtime.memory.gather then makes one of that."""
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

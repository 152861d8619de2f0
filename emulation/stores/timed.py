"""A store with modelled time: moves the real bytes, then lets the clock stand where the profile says. Knows paths and clocks.

Reads and writes take what the path takes, whole lines counted; `flush` is free and the next `fence` waits one write latency
for it; `invalidate` is free, since every read is charged as one that comes from memory. On a WallClock the store stalls for
what the real access did not take; an access that was slower than the model is counted (`clock.error`), never shortened."""

from functools import lru_cache
from math import ceil

from emulation.stores.wrapper import WrapperStore
from emulation.timing.clock import Clock
from emulation.timing.links.booked import Reservations
from emulation.timing.links.fabric import OthersLoad
from emulation.timing.path import LinkPath, Transfer
from sac_runtime.label import Label
from sac_runtime.memory.gather import slot_gather
from sac_runtime.memory.store import KvStore, Plan, SlotGather, StepPlanner
from sac_runtime.rows.layout import LINE_BYTES, ByteArray, IntArray
from sac_runtime.rows.placement import LayerRows

PART_BYTES = 256 << 10  # assumed: readers on a wall clock take turns on a link by parts of this size


class TimedStore(WrapperStore):
    """`store` as if it lay at the far end of `path`.

    links: None if nobody else uses the path's links; else where this store and others book them. Returned times are those
    of `clock`, and so is the label: modelled on a VirtualClock, injected on a WallClock."""

    def __init__(self, store: KvStore, path: LinkPath, clock: Clock, links: Reservations | None = None) -> None:
        super().__init__(store)
        self.path = path
        self.clock = clock
        self._links = links
        self._lines = [] if links is None else [links.line(name) for name in path.links]
        self._others = OthersLoad(len(self._lines))
        self._row_bytes = store.layout.lines_per_row * LINE_BYTES
        self._idle_ns = lru_cache(maxsize=4096)(lambda *transfer: path.idle_ns(Transfer(*transfer)))
        self._unfenced = False

    @property
    def label(self) -> Label:
        return self.clock.label

    def read_rows(self, rows: IntArray, out: ByteArray) -> int:
        """As KvStore.read_rows; each row is one piece."""
        begin_ns = self.clock.now_ns()
        self.store.read_rows(rows, out)
        return self.charge_rows(begin_ns, rows.shape[0])

    def slot_gather(self, buffer: StepPlanner, slots: ByteArray) -> "TimedGather":
        """As KvStore.slot_gather: the gather of the store below, charged for the rows that it brings."""
        return TimedGather(self, slot_gather(self.store, buffer, slots))

    def charge_rows(self, begin_ns: int, num_rows: int, write: bool = False) -> int:
        """Stall for the transfer of rows that began at `begin_ns`, each one piece. Returns its ns."""
        return self._charge(begin_ns, num_rows, num_rows * self._row_bytes, write)

    def write_rows(self, rows: IntArray, values: ByteArray) -> int:
        """As KvStore.write_rows; each row is one piece."""
        begin_ns = self.clock.now_ns()
        self.store.write_rows(rows, values)
        return self.charge_rows(begin_ns, rows.shape[0], write=True)

    def read_bytes(self, offset: int, out: ByteArray) -> None:
        """As KvStore.read_bytes; one piece."""
        begin_ns = self.clock.now_ns()
        self.store.read_bytes(offset, out)
        self._charge(begin_ns, 1, _line_bytes(offset, out.size), False)

    def write_bytes(self, offset: int, values: ByteArray) -> None:
        """As KvStore.write_bytes; one piece."""
        begin_ns = self.clock.now_ns()
        self.store.write_bytes(offset, values)
        self._charge(begin_ns, 1, _line_bytes(offset, values.size), True)

    def flush(self, offset: int, size_bytes: int) -> None:
        """As KvStore.flush; its time is the next fence's."""
        self.store.flush(offset, size_bytes)
        self._unfenced = True

    def fence(self) -> None:
        """As KvStore.fence; takes one write latency after a flush."""
        begin_ns = self.clock.now_ns()
        self.store.fence()
        if self._unfenced:
            self._unfenced = False
            self.clock.stall(begin_ns, round(self.path.profile.latency_ns(write=True)))

    def _charge(self, begin_ns: int, pieces: int, num_bytes: int, write: bool) -> int:
        if not pieces or not num_bytes:
            return self.clock.stall(begin_ns, 0)
        if self._links is None:
            return self.clock.stall(begin_ns, self._idle_ns(pieces, num_bytes, write))
        return self.clock.stall(begin_ns, self._shared_ns(self._links, begin_ns, Transfer(pieces, num_bytes, write)))

    def _shared_ns(self, links: Reservations, begin_ns: int, transfer: Transfer) -> int:
        """Time of a transfer among others. A wall clock books it part by part, so that others get their turns."""
        num_parts = 1 if self.label is Label.MODELLED else -(-transfer.num_bytes // PART_BYTES)
        part = [ceil(work_ns / num_parts) for work_ns in self.path.works_ns(transfer)]
        load = self._others.update(
            begin_ns, links.busy_ns(self._lines, begin_ns), [num_parts * own_ns for own_ns in part]
        )
        reader_ns, late_ns = self.path.loaded_ns(transfer, load)
        part[0] = ceil(reader_ns / num_parts)
        served_ns = begin_ns
        for _ in range(num_parts):
            self.clock.wait_until(served_ns)
            served_ns = links.book(self._lines, served_ns, part)
        return max(self.path.profile.floor_ns, served_ns - begin_ns + late_ns)


class TimedGather:
    """A gather whose rows take the time of a TimedStore. Planning is not charged: it is this host's own work."""

    def __init__(self, store: TimedStore, gather: SlotGather) -> None:
        self._store = store
        self._gather = gather

    def fetch(self, topk: IntArray, length: int, place: LayerRows) -> tuple[Plan, int]:
        """As SlotGather.fetch."""
        clock = self._store.clock
        planning_ns = clock.now_ns()
        plan, own_ns = self._gather.fetch(topk, length, place)
        if not plan.misses:
            return plan, 0
        begin_ns = max(planning_ns, clock.now_ns() - own_ns)  # of a real gather on a wall clock; elsewhere both are now
        return plan, self._store.charge_rows(begin_ns, plan.misses)


def _line_bytes(offset: int, size_bytes: int) -> int:
    """Bytes of the lines that [offset, offset + size_bytes) touches."""
    if not size_bytes:
        return 0
    return ((offset + size_bytes - 1) // LINE_BYTES - offset // LINE_BYTES + 1) * LINE_BYTES

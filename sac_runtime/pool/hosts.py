"""The hosts of a pool: what each says of itself, who is fenced off, who seems dead.

Knows state lines and fence marks, not blocks or journals. Needs no clock that hosts share: a host is alive while its state line
keeps changing, by the watch of whoever looks.

A host that others take for dead may be merely slow. It is never trusted to be dead: the fencer writes a mark into its own line
before anybody acts on it, and the fenced host looks for marks before it writes and after it reads, so that what it read meanwhile
is thrown away. What remains: between that look and the store that follows a process can be paused for longer than any timeout,
and then write beside its successor, the next process that opens the pool under the same host number. Only the fabric (unbinding the
device from the host) can close this window; other hosts' memory is never at risk from it.

A host number belongs to a machine: what a process that died had written stays in its machine's caches and may reach memory at any
time later. A successor on the same machine sees it; one on another would have its own blocks overwritten, unless the first machine
is off, or its caches have been written back."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from sac_runtime.errors import FencedError, GeometryError, HostBusyError, PoolFormatError
from sac_runtime.memory.store import KvStore
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.lines import (
    CLOSED,
    MARK,
    NEVER_OPENED,
    NO_LEASE,
    OPEN,
    STATE,
    Lines,
    checksum,
    read_lines,
    salt_of,
    write_lines,
)
from sac_runtime.rows.layout import LINE_BYTES

DEFAULT_PATIENCE_S = 5.0  # assumed: silence after which a host counts as dead; ten beats of Pool.beating
MOST_COUNT = 2**62  # of sequences and epochs; no pool gets there
_BLANK = np.zeros((), STATE)
_READING = 4  # which word of a state line "reading" is
MOST_OPENINGS = 2**30 - 1  # of a pool as one host
MOST_TORN_MARK_READS = 20  # assumed: a mark is written once, and a line is half-written for nanoseconds
MOST_TORN_READS = 1000  # assumed: no live host is caught with both lines torn so often in a row


@dataclass(frozen=True)
class HostsView:
    """The state of every host, as memory held it at one look. states: (num_hosts,) STATE; fenced: (num_hosts,) bool, whether the
    present incarnation is fenced off; newest_epoch: the greatest epoch that the looking host has seen before."""

    states: Lines
    fenced: NDArray[np.bool_]
    newest_epoch: int = 0

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Hosts whose leases count."""
        is_open: NDArray[np.bool_] = self.states["status"] == OPEN
        return is_open & ~self.fenced

    @property
    def readers(self) -> NDArray[np.bool_]:
        """Hosts that count and hold a lease."""
        holds_lease: NDArray[np.bool_] = self.states["reading"] != NO_LEASE
        return self.counted & holds_lease

    @property
    def oldest_epoch_read(self) -> int:
        """Oldest epoch under lease by any host that counts, or NO_LEASE."""
        return int(self.states["reading"][self.counted].min(initial=NO_LEASE))

    def oldest_epoch_read_beside(self, host: int) -> int:
        """The same of all hosts but one."""
        others = self.counted & (np.arange(len(self.states)) != host)
        return int(self.states["reading"][others].min(initial=NO_LEASE))

    @property
    def epoch(self) -> int:
        """The pool's epoch: at least as great as any that a host has ever begun, and so as any under lease; also where the state
        that began it has been lost."""
        reading = self.states["reading"]
        under_lease = int(reading[reading != NO_LEASE].max(initial=0))
        return max(self.newest_epoch, under_lease, int(self.states["epoch"].max()))


class Hosts:
    """One host's window on all hosts of a pool, and its own state line, which it alone writes."""

    def __init__(
        self,
        store: KvStore,
        geometry: PoolGeometry,
        pool_id: int,
        host: int,
        patience_s: float = DEFAULT_PATIENCE_S,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """patience_s: silence after which another host is taken for dead. Raises GeometryError."""
        if not 0 <= patience_s < inf:
            raise GeometryError(f"pool: patience_s={patience_s} must be a number of seconds, 0 or more")
        self.host = host
        self._pid = os.getpid()  # of the process whose host number it is
        self._patience_ns = int(patience_s * 1e9)
        self._store = store
        self._geometry = geometry
        self._clock_ns = clock_ns
        hosts = range(geometry.num_hosts)
        self._state_salts = np.array([salt_of(pool_id, h, STATE) for h in hosts], np.uint64)
        self._mark_salts = np.array([salt_of(pool_id, h, MARK) for h in hosts], np.uint64)
        self._state = np.zeros(1, STATE)
        self._own_area = np.zeros(0, STATE)  # as memory held it at the last look, and as written since
        self._changed_at_ns = np.zeros(geometry.num_hosts, np.int64)
        self._sequences = np.full(geometry.num_hosts, -1, np.int64)
        self._newest_epoch = 0
        self.num_rolled_back = 0  # looks at which a host's state was older than at the look before

    @property
    def state(self) -> Lines:
        """Own state as last written; a scalar STATE."""
        return self._state[0]  # type: ignore[no-any-return]

    def look(self) -> HostsView:
        """Read the state of every host from memory, and note who has changed since the last look."""
        areas, whole = self._read_untorn_areas()
        states = _latest_states(areas[:, :2], whole)
        marks = _whole_marks(areas[:, 2:].view(MARK), self._mark_salts)
        self._note_changes(states["sequence"].astype(np.int64))
        fenced = marks.max(axis=1) >= np.maximum(states["incarnation"], np.uint64(1))
        view = HostsView(states, fenced, self._newest_epoch)
        self._newest_epoch = view.epoch
        return view

    def silent_for_ns(self, host: int) -> int:
        """How long the state of `host` has stood still, by this host's watch; 0 before the first look."""
        return self._clock_ns() - int(self._changed_at_ns[host]) if self._sequences[host] >= 0 else 0

    def require_free(self, host: int, sleep: Callable[[float], None]) -> None:
        """Return once `host` has closed, is fenced off, or has not changed its state for as long as the patience.
        Raises HostBusyError if it does change meanwhile."""
        view = self.look()
        first = view.states[host]
        while view.counted[host] and self.silent_for_ns(host) < self._patience_ns:
            sleep(self._patience_ns / 20e9)
            view = self.look()
            if view.counted[host] and view.states[host]["sequence"] != first["sequence"]:
                raise HostBusyError(
                    f"pool host {host}: incarnation={_openings(first)} is in use by a live process: its state changed within "
                    f"{self._patience_ns / 1e9:g} s (end that process, or open the pool as another host)"
                )

    def join(self, previous: Lines) -> Lines:
        """Become the next incarnation of this host. previous: its state in memory. Returns the own state, a scalar STATE."""
        self._state[0] = previous
        self._pid = os.getpid()
        self._own_area = self._read_own_area()
        marked = int(_whole_marks(self._marks_of(self._own_area), self._mark_salts).max())
        openings = (max(int(previous["incarnation"]), marked) >> 32) + 1
        if openings > MOST_OPENINGS:
            raise PoolFormatError(
                f"pool host {self.host}: a fence mark names incarnation={openings - 1}, there are {MOST_OPENINGS} at most; "
                "something other than this pool's hosts has written there (create the pool anew)"
            )
        # Two processes that join at once read the same state: the random half tells the one whose line was overwritten.
        incarnation = openings << 32 | int.from_bytes(os.urandom(4), "little")
        self._write(incarnation=incarnation, status=OPEN, reading=NO_LEASE)
        return self.state

    def write(self, **changes: int) -> None:
        """Change fields of the own state, and show life. On return the line is in memory. Raises FencedError."""
        self.require_unfenced()
        self._write(**changes)

    def begin_epoch(self) -> int:
        """Start an epoch that no host reads yet, and return it. What was retired before may be reused when all hosts have come to
        it. The look must come after the tombstones are in memory: whoever missed them has announced an epoch that it sees.
        Raises FencedError."""
        epoch = self.look().epoch + 1
        self.write(epoch=epoch)
        return epoch

    def leave(self) -> None:
        """Say that this host has closed the pool. Raises FencedError."""
        self.write(status=CLOSED, reading=NO_LEASE)

    def fence_silent(self, view: HostsView, suspects: NDArray[np.bool_]) -> list[int]:
        """Fence off those suspects that were silent for as long as the patience. suspects: (num_hosts,) bool. Returns them."""
        dead = [
            host
            for host in np.flatnonzero(suspects).tolist()
            if host != self.host and self.silent_for_ns(host) >= self._patience_ns
        ]
        for host in dead:
            self.fence_off(host, int(view.states[host]["incarnation"]))
        return dead

    def fence_off(self, host: int, incarnation: int) -> None:
        """Mark that incarnation of `host` as dead, for all to see."""
        mark = np.zeros(1, MARK)
        mark["incarnation"] = incarnation
        write_lines(self._store, self._geometry.mark_offset(host, self.host), mark, int(self._mark_salts[self.host]))

    def require_unfenced(self) -> None:
        """Raise FencedError if another host has fenced this one off, or another process opened the pool as this host."""
        if self.state["status"] == CLOSED:
            raise FencedError(f"pool host {self.host}: this pool was closed (open it again)")
        if os.getpid() != self._pid:
            raise FencedError(
                f"pool host {self.host}: process {os.getpid()} is a fork of {self._pid}, which opened the pool and holds the host "
                "number (open the pool in this process, as a host of its own)"
            )
        area = self._settled_own_area()
        if area.tobytes() == self._own_area.tobytes():
            return
        turns = area[np.newaxis, :2]
        latest = _latest_states(turns, _whole_states(turns, self._state_salts[self.host : self.host + 1]))[0]
        if latest["incarnation"] != self.state["incarnation"]:
            raise FencedError(
                f"pool host {self.host}: incarnation={_openings(self.state)} was replaced by another process, now at "
                f"incarnation={_openings(latest)} (end this process, or open the pool again)"
            )
        if (area[:2] != self._own_area[:2]).any():
            raise FencedError(
                f"pool host {self.host}: its state lines hold sequence={latest['sequence']}, not what it wrote at "
                f"sequence={self.state['sequence']}, so its lease may not have counted (open the pool again)"
            )
        marks = _whole_marks(self._marks_of(area), self._mark_salts)[0]
        if marks.max() >= self.state["incarnation"]:
            raise FencedError(
                f"pool host {self.host}: incarnation={_openings(self.state)} was fenced off by host {int(marks.argmax())}, "
                "having been silent for too long (open the pool again; beat more often, see Pool.beating)"
            )
        torn = self._torn_marks(area)
        if torn.any():
            raise FencedError(
                f"pool host {self.host}: incarnation={_openings(self.state)} may be fenced off: the mark of host "
                f"{int(torn.argmax())} was written since it joined, and is torn (open the pool again)"
            )
        self._own_area = area  # a mark of an earlier incarnation

    def _write(self, **changes: int) -> None:
        for name, value in changes.items():
            self._state[name] = value
        self._state["sequence"] += np.uint64(1)
        turn = int(self.state["sequence"]) % 2
        offset = self._geometry.state_offset(self.host, turn)
        write_lines(self._store, offset, self._state, int(self._state_salts[self.host]))
        self._own_area[turn] = self._state[0]

    def _read_untorn_areas(self) -> tuple[Lines, NDArray[np.bool_]]:
        """The lines of every host's area, and which state lines are whole, such that the newer whole one of each host is no older
        than the call.

        A torn line may hide a state that was there before, the other one being read before its turn came. But a host begins a line
        only when its other one is in memory: so read again after seeing a torn one. Returns (hosts, host_area_lines) STATE,
        (hosts, 2) bool."""
        areas, whole, torn = self._read_areas()
        if torn.any():
            areas, whole, torn = self._read_areas()
        for _ in range(MOST_TORN_READS):
            if not torn.all(axis=1).any():
                return areas, whole
            areas, whole, torn = self._read_areas()
        raise PoolFormatError(
            f"pool host {int(torn.all(axis=1).argmax())}: both its state lines are torn and stay so; "
            "something other than this pool's hosts has written there (create the pool anew)"
        )

    def _read_areas(self) -> tuple[Lines, NDArray[np.bool_], NDArray[np.bool_]]:
        """All areas, which state lines are whole, and which are torn: not whole, yet not blank. Returns (hosts, lines) STATE,
        (hosts, 2) bool, (hosts, 2) bool."""
        shape = (self._geometry.num_hosts, self._geometry.host_area_lines)
        areas = read_lines(self._store, self._geometry.state_offset(0, 0), shape[0] * shape[1], STATE).reshape(shape)
        turns = areas[:, :2]
        whole = _whole_states(turns, self._state_salts)
        return areas, whole, ~whole if whole.all() else ~whole & (turns != _BLANK)

    def _read_own_area(self) -> Lines:
        """What memory says of this host: its two state lines, then the others' marks."""
        offset = self._geometry.state_offset(self.host, 0)
        return read_lines(self._store, offset, self._geometry.host_area_lines, STATE)

    def _settled_own_area(self) -> Lines:
        """The own area, read again while a mark in it is half-written; one whose writer died on the way stays so."""
        area = self._read_own_area()
        for _ in range(MOST_TORN_MARK_READS):
            if area.tobytes() == self._own_area.tobytes() or not self._torn_marks(area).any():
                break
            area = self._read_own_area()
        return area

    def _torn_marks(self, area: Lines) -> NDArray[np.bool_]:
        """Which fencers' marks are neither whole nor what they were when this host joined. Returns (hosts,) bool."""
        marks = self._marks_of(area)[0]
        whole = checksum(marks, self._mark_salts) == marks["checksum"]
        torn: NDArray[np.bool_] = ~whole & (area[2:] != self._own_area[2:])
        return torn

    @staticmethod
    def _marks_of(area: Lines) -> Lines:
        return area[np.newaxis, 2:].view(MARK)

    def _note_changes(self, sequences: NDArray[np.int64]) -> None:
        self._changed_at_ns[sequences != self._sequences] = self._clock_ns()
        self.num_rolled_back += int(np.count_nonzero(sequences < self._sequences))
        self._sequences = sequences


def _openings(state: Lines) -> int:
    """How often the host had been opened when `state` was written."""
    return int(state["incarnation"]) >> 32


def _latest_states(turns: Lines, whole: NDArray[np.bool_]) -> Lines:
    """The newer of each host's two state lines, of those that are whole; NEVER_OPENED if none is.
    turns: (hosts, 2) STATE; whole: (hosts, 2). Returns (hosts,) STATE."""
    sequences = np.where(whole, turns["sequence"], np.uint64(0))
    latest: Lines = turns[np.arange(len(turns)), sequences.argmax(axis=1)]
    latest[~whole.any(axis=1)] = _never_opened()
    return latest


def _whole_states(turns: Lines, salts: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which lines have the right checksum, and say what a state says. turns: (hosts, 2) STATE; salts: (hosts,). Returns
    (hosts, 2) bool."""
    flat = turns.ravel()
    whole = (checksum(flat, salts.repeat(2)) == flat["checksum"]).reshape(turns.shape)
    in_bounds = turns.view("<u8").reshape(*turns.shape, -1)[..., :-1] < MOST_COUNT
    in_bounds[..., _READING] |= turns["reading"] == NO_LEASE
    possible: NDArray[np.bool_] = whole & in_bounds.all(axis=-1) & (turns["head"] > 0)
    return possible


def _whole_marks(marks: Lines, salts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Incarnations fenced off, 0 where there is no whole mark. marks: (hosts, fencers) MARK; salts: (fencers,), by fencer."""
    flat = marks.ravel()
    whole = (checksum(flat, np.tile(salts, len(marks))) == flat["checksum"]).reshape(marks.shape)
    return np.where(whole, marks["incarnation"], np.uint64(0))


def _never_opened() -> Lines:
    """State of a host that nobody has opened the pool as; a scalar STATE."""
    state = np.zeros(1, STATE)
    state["status"], state["reading"], state["head"] = NEVER_OPENED, NO_LEASE, 1
    return state[0]  # type: ignore[no-any-return]


def erase(store: KvStore, geometry: PoolGeometry) -> None:
    """Forget all hosts, for a new pool."""
    area = np.zeros(geometry.num_hosts * geometry.host_area_lines * LINE_BYTES, np.uint8)
    offset = geometry.state_offset(0, 0)
    store.write_bytes(offset, area)
    store.flush(offset, area.size)
    store.fence()

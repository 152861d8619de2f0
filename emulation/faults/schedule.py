"""Meetings of hosts at every step: has another host act, or the acting host die, before each access to memory in turn.

Knows stores and steps; knows no pool, and no protocol at all. It is for whoever writes one over memory that hosts share without
coherence, where a fault shows only if two hosts meet at one certain moment. A step is one access of the acting host to its store,
or one line that its cache writes to memory at a fence or before. The act is run once per step, each time from the beginning, with
the meeting before that step, until it ends without having come so far:

    def make(seed):
        memory = MappedStore.anonymous(...)
        writer, reader = SteppingStore(memory, seed), IncoherentStore(memory)
        return Encounter(writer, act=lambda: send(writer, letter), meeting=lambda: require_whole_or_none(reader, letter))

    assert meet_at_every_step(make) > 20

A meeting that raises HostDeath, as die() does, ends the act there. What then remains of the host is its SteppingStore: afterwards
lose_cache() (its machine lost power) or write_back_everything() (its process alone died). What it cannot find: faults that need
three hosts to be caught in the middle of something at once, and orders of lines that no seed has drawn."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from emulation.errors import InputError
from emulation.stores.incoherent import IncoherentStore
from sac_runtime.memory.store import KvStore
from sac_runtime.rows.layout import ByteArray, IntArray

WRITE_LINE = (
    "write line"  # the step at which a cache writes a line, or a piece of it, to memory; all others are accesses
)
MOST_STEPS = 1000  # assumed: an act that takes more of them never ends


class HostDeath(BaseException):
    """The acting host is dead. Not an Exception: no code under test may catch it."""


def die() -> NoReturn:
    """A meeting that ends the act. Raises HostDeath."""
    raise HostDeath


class SteppingStore(IncoherentStore):
    """One host's view of `memory`, through a cache of its own, that stops before a step of one's choosing.

    By an odd seed flushes may take effect before their fence, by an even one they do not; by every other pair of seeds lines may be
    torn. part_of: what to call the part of memory
    at a byte offset, for `trail`: the steps so far, such as "write state", "flush rows", "fence", "write line"."""

    def __init__(self, memory: KvStore, seed: int = 0, part_of: Callable[[int], str] = lambda offset: "bytes") -> None:
        super().__init__(memory, seed=seed, prefetch=0.5, flush_early=seed % 2 / 2, tear=0.25 * (seed % 4 > 1))
        self.part_of = part_of
        self.trail: list[str] = []
        self._countdown = -1
        self._meeting: Callable[[], object] = die

    def arm(self, step: int, meeting: Callable[[], object]) -> None:
        """Call `meeting` once, before the step-th step from now on, counted from 0."""
        self._countdown, self._meeting = step, meeting

    def disarm(self) -> bool:
        """Whether the meeting took place. It does not from now on."""
        met, self._countdown = self._countdown < 0, -1
        return met

    def read_rows(self, rows: IntArray, out: ByteArray) -> int:
        """As KvStore.read_rows; a step."""
        self._step("read rows")
        return super().read_rows(rows, out)

    def write_rows(self, rows: IntArray, values: ByteArray) -> int:
        """As KvStore.write_rows; a step."""
        self._step("write rows")
        return super().write_rows(rows, values)

    def read_bytes(self, offset: int, out: ByteArray) -> None:
        """As KvStore.read_bytes; a step."""
        self._step(f"read {self.part_of(offset)}")
        super().read_bytes(offset, out)

    def write_bytes(self, offset: int, values: ByteArray) -> None:
        """As KvStore.write_bytes; a step."""
        self._step(f"write {self.part_of(offset)}")
        super().write_bytes(offset, values)

    def flush(self, offset: int, size_bytes: int) -> None:
        """As KvStore.flush; a step, and one more for each line when it is written."""
        self._step(f"flush {self.part_of(offset)}")
        super().flush(offset, size_bytes)

    def invalidate(self, offset: int, size_bytes: int) -> None:
        """As KvStore.invalidate; a step."""
        self._step(f"invalidate {self.part_of(offset)}")
        super().invalidate(offset, size_bytes)

    def fence(self) -> None:
        """As KvStore.fence; a step."""
        self._step("fence")
        super().fence()

    def _write_piece(self, start: int, stop: int) -> None:
        self._step(WRITE_LINE)
        super()._write_piece(start, stop)

    def _step(self, name: str) -> None:
        self.trail.append(name)
        self._countdown -= 1
        if self._countdown == -1:
            self._meeting()


@dataclass(frozen=True)
class Encounter:
    """What is tried once per step: `act` of the host behind `store`, `meeting` before one step of it, `afterwards` when it ended.

    Each of the three raises, as an assertion does, if what must hold does not."""

    store: SteppingStore
    act: Callable[[], object]
    meeting: Callable[[], object]
    afterwards: Callable[[], object] = lambda: None

    def run(self, step: int) -> bool:
        """Returns whether the meeting took place: False if the act ended before that step."""
        self.store.arm(step, self.meeting)
        with suppress(HostDeath):
            self.act()
        met = self.store.disarm()
        self.afterwards()
        return met


def meet_at_every_step(make: Callable[[int], Encounter], seeds_per_step: int = 1, most_steps: int = MOST_STEPS) -> int:
    """Try an encounter with the meeting before step 0, 1, 2 and so on, until the act ends before its meeting.

    make(seed): the encounter, from the beginning; seeds are step, step + 1, ... of each step. Returns the number of steps at which
    hosts met: assert that it is about what you expect, lest an act that does nothing pass. Raises InputError if `most_steps` were
    not enough, and what the encounter raises."""
    for step in range(most_steps):
        met = [make(seed).run(step) for seed in range(step, step + seeds_per_step)]
        if not any(met):
            return step
    raise InputError(f"schedule: the act is not over after most_steps={most_steps} (let it do less, or allow for more)")


def write_steps(trail: list[str]) -> list[str]:
    """The steps of a trail by which a host tells others something: those that read are left out, with the invalidations before
    them and the fences of these, and so are repetitions in a row and the single lines. To be compared with a protocol's recipe."""
    steps: list[str] = []
    invalidated = False
    for step in trail:
        if step.startswith("invalidate"):
            invalidated = True
        elif step == "fence" and invalidated:
            invalidated = False
        elif not step.startswith("read") and step != WRITE_LINE and steps[-1:] != [step]:
            steps.append(step)
    return steps

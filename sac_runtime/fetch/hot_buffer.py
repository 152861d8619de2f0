"""The hot buffer of one layer of one request: which tokens have a slot, which are fetched into which. Moves no bytes.

The rule (that of SGLang's HiSparse, stated here in our own words):
- B slots are under LRU. The newest token has a slot of its own outside it, number B, since its row is made on this host.
- A step: top-k tokens that have a slot are hits. The i-th miss takes the i-th least recently used slot that is no hit.
- The new order, oldest first: slots not used in this step in their old order, slots filled in this step in the order they
  were filled, slots hit in their old order. Slots that hold nothing are the oldest of all.
- A sequence no longer than B takes a direct path: token t has slot t, the newest token too, and nothing is evicted.
"""

import ctypes
from dataclasses import dataclass

import numpy as np

from sac_runtime import native
from sac_runtime.errors import GeometryError
from sac_runtime.memory.store import Plan, StepCall
from sac_runtime.rows.doors import described, require_whole
from sac_runtime.rows.layout import IntArray, KvLayout
from sac_runtime.rows.placement import LayerRows

NO_MEMORY = -(2**63)  # as sac_plan returns it
MOST_TOKENS = 2**31 - 1  # the token of a slot is an int32


@dataclass
class Counters:
    """Sums over the steps of one layer. They add, so that the requests of a batch can be summed by layer."""

    steps: int = 0
    hits: int = 0
    misses: int = 0
    compulsory: int = 0

    def count(self, plan: Plan) -> None:
        misses = plan.misses
        self.steps += 1
        self.hits += plan.slots.size - misses
        self.misses += misses
        self.compulsory += plan.compulsory

    def add(self, other: "Counters") -> None:
        """Count what was counted elsewhere."""
        self.steps += other.steps
        self.hits += other.hits
        self.misses += other.misses
        self.compulsory += other.compulsory

    def fetched_bytes(self, layout: KvLayout) -> int:
        """Payload of all misses."""
        return self.misses * layout.row_bytes

    def fetched_lines(self, layout: KvLayout) -> int:
        """Lines that the loads of all misses touch, row by row."""
        return self.misses * layout.lines_per_row

    def __add__(self, other: "Counters") -> "Counters":
        return Counters(
            self.steps + other.steps,
            self.hits + other.hits,
            self.misses + other.misses,
            self.compulsory + other.compulsory,
        )


class HotBuffer:
    """Slots for `capacity` tokens and the newest; plans the steps of one layer of one request.

    Memory: 4 B for each token number up to the highest. Raises GeometryError for capacity < top_k or top_k < 1."""

    def __init__(self, capacity: int, top_k: int) -> None:
        require_whole("hot buffer", "top_k", top_k, 1)
        require_whole("hot buffer", "capacity", capacity, 0, MOST_TOKENS)
        if capacity < top_k:
            raise GeometryError(
                f"hot buffer: capacity={capacity} is below top_k={top_k}; a step's entries would not fit"
            )
        self.capacity = capacity
        self.top_k = top_k
        self._sac_plan = native.load().sac_plan
        self.reset()

    @property
    def num_slots(self) -> int:
        """Rows that a slot buffer needs: `capacity` and one for the newest token."""
        return self.capacity + 1

    def reset(self) -> None:
        """Forget every token and count: for another sequence."""
        self.counters = Counters()
        self.forget()

    def forget(self) -> None:
        """Forget every token and keep the counts: after a rollback, or a fetch that failed. All tokens are new again."""
        self._length = 0
        self._direct = True
        self._slot_of_token = np.full(0, -1, np.int32)
        self._token_of_slot = np.full(self.capacity, -1, np.int32)
        self._order = np.arange(self.capacity, dtype=np.int32)
        self._native = native.BufferState(
            token_of_slot=native.address(self._token_of_slot),
            order=native.address(self._order),
            capacity=self.capacity,
        )
        self._address = ctypes.addressof(self._native)

    def plan(self, topk: IntArray, length: int | None = None) -> Plan:
        """Plan one step, and count it; from then on the misses are taken to be in their slots.

        topk: (k,) int64 token numbers, each once, k <= top_k. length: tokens of the sequence, the newest included: token
        length - 1 has newest_slot and is never fetched. None: no newest token and no direct path, as in a replayed trace.
        Raises GeometryError (nothing is planned) for a token outside or named twice, too many, or a length that shrank."""
        return self.plan_by(self._sac_plan, topk, length)[0]

    def plan_by(
        self, run: StepCall, topk: IntArray, length: int | None, place: LayerRows | None = None
    ) -> tuple[Plan, native.PlanStep]:
        """plan() by a native call that does more than plan; returns its argument as well, for what the call left there.

        place: where the tokens lie, if the call is to know the rows of the misses; one that native code may follow
        (LayerRows.require_native)."""
        was_direct = self._direct
        self._admit(topk, length)
        output = np.empty((4, topk.size), np.int64)
        step = self._native_step(topk, -1 if length is None else length - 1, place, output)
        missed = run(self._address, ctypes.addressof(step))
        if missed < 0:
            self._direct = was_direct
            raise self._refusal(topk, missed)
        newest_slot = None if step.newest < 0 else step.newest_slot
        plan = Plan(output[0], output[1, :missed], output[2, :missed], step.compulsory, newest_slot)
        self._length = step.newest + 1
        self.counters.count(plan)
        return plan, step

    def preload(self, num_tokens: int) -> None:
        """Take tokens 0 .. num_tokens - 1 to be in the slots of their own numbers, before the first step of a sequence that
        stays on the direct path. Raises GeometryError above `capacity`, or once the buffer is under LRU."""
        require_whole("hot buffer", "num_tokens", num_tokens)
        if num_tokens > self.capacity or not self._direct:
            raise GeometryError(f"hot buffer: {num_tokens} tokens cannot be preloaded; capacity={self.capacity}")
        self._set_num_tokens(num_tokens)
        self._slot_of_token[:num_tokens] = self._token_of_slot[:num_tokens] = np.arange(num_tokens)

    def resident_tokens(self) -> IntArray:
        """Tokens that have a slot under LRU or on the direct path, ascending."""
        return np.sort(self._token_of_slot[self._token_of_slot >= 0]).astype(np.int64)

    def _admit(self, topk: IntArray, length: int | None) -> None:
        """Check what a step asks for and make room in the token map."""
        if not isinstance(topk, np.ndarray) or topk.ndim != 1 or topk.dtype != np.int64 or not topk.flags.c_contiguous:
            raise GeometryError(f"hot buffer: topk is {described(topk)}; it must be int64 of one dimension, contiguous")
        if topk.size > self.top_k:
            raise GeometryError(f"hot buffer: topk holds {topk.size} entries, above top_k={self.top_k}")
        if length is None:
            self._set_num_tokens(max(int(topk.max(initial=-1)) + 1, self._native.num_tokens))
            self._leave_direct_path()
            return
        if type(length) is not int:
            require_whole("hot buffer", "length", length)
        if length < max(self._length, 1):
            raise GeometryError(
                f"hot buffer: length={length} is below {max(self._length, 1)}; forget() before a rollback"
            )
        self._set_num_tokens(length)
        if length > self.capacity:
            self._leave_direct_path()

    def _set_num_tokens(self, num_tokens: int) -> None:
        if num_tokens > MOST_TOKENS:
            raise GeometryError(f"hot buffer: token {num_tokens - 1} is beyond {MOST_TOKENS - 1}, the last it can name")
        if num_tokens > self._slot_of_token.size:
            grown = np.full(max(num_tokens, 2 * self._slot_of_token.size, 1024), -1, np.int32)
            grown[: self._slot_of_token.size] = self._slot_of_token
            self._slot_of_token = grown
            self._native.slot_of_token = native.address(grown)
        self._native.num_tokens = num_tokens

    def _leave_direct_path(self) -> None:
        """Under LRU from now on: slots that hold nothing come first."""
        if self._direct:
            empty_first = np.argsort(self._token_of_slot >= 0, kind="stable")
            self._order[:] = empty_first
            self._direct = False

    def _native_step(self, topk: IntArray, newest: int, place: LayerRows | None, output: IntArray) -> native.PlanStep:
        """The native call's argument. output: (4, k), for slots, missed tokens, their victim slots and their rows; it must
        outlive the call."""
        first, array_bytes = native.address(output), topk.nbytes
        step = native.PlanStep(
            tokens=native.address(topk),
            n=topk.size,
            newest=newest,
            newest_slot=newest if self._direct else self.capacity,
            direct=self._direct,
            slots=first,
            miss_tokens=first + array_bytes,
            victim_slots=first + 2 * array_bytes,
        )
        if place is not None:
            step.miss_rows = first + 3 * array_bytes
            step.row_of_token = None if place.table is None else native.address(place.table)
            step.first_row = place.first_row
        return step

    def _refusal(self, topk: IntArray, status: int) -> GeometryError | MemoryError:
        """What a negative result of sac_plan means."""
        if status == NO_MEMORY:
            return MemoryError(f"hot buffer: no memory to plan over {self.capacity} slots")
        entry = -1 - status
        token, num_tokens = int(topk[entry]), self._native.num_tokens
        if 0 <= token < num_tokens:
            return GeometryError(f"hot buffer: topk[{entry}]={token} is named twice; each token may be asked for once")
        return GeometryError(f"hot buffer: topk[{entry}]={token} lies outside [0, {num_tokens})")

"""The hot buffer against a plain-Python model of the rule, written from its statement alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sac_runtime.errors import GeometryError
from sac_runtime.fetch.hot_buffer import Counters, HotBuffer
from sac_runtime.rows.layout import KvLayout


class RuleModel:
    """The rule of dsa.md with lists and a dict: slow, and nothing of it shared with the code under test."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.slot_of = {}
        self.oldest_first = list(range(capacity))
        self.ever = set()
        self.direct = True

    def step(self, topk, length):
        newest = None if length is None else length - 1
        if length is None or length > self.capacity:
            if self.direct:
                filled = set(self.slot_of.values())
                self.oldest_first = [s for s in range(self.capacity) if s not in filled] + sorted(filled)
            self.direct = False
        if self.direct:
            return self._direct_step(topk, newest)
        return self._lru_step(topk, newest)

    def _direct_step(self, topk, newest):
        misses = [t for t in topk if t != newest and t not in self.slot_of]
        compulsory = len([t for t in misses if t not in self.ever])
        for token in [*misses, newest]:
            self.slot_of[token] = token
            self.ever.add(token)
        return list(topk), misses, misses, compulsory, newest

    def _lru_step(self, topk, newest):
        listed = [t for t in topk if t != newest]
        hit_slots = {self.slot_of[t] for t in listed if t in self.slot_of}
        misses = [t for t in listed if t not in self.slot_of]
        unused = [s for s in self.oldest_first if s not in hit_slots]
        victims = unused[: len(misses)]
        hits_in_order = [s for s in self.oldest_first if s in hit_slots]
        self.oldest_first = unused[len(misses) :] + victims + hits_in_order
        self.slot_of = {t: s for t, s in self.slot_of.items() if s not in victims}
        self.slot_of.update(zip(misses, victims, strict=True))
        compulsory = len([t for t in misses if t not in self.ever])
        self.ever.update(misses)
        slots = [self.capacity if t == newest else self.slot_of[t] for t in topk]
        return slots, misses, victims, compulsory, None if newest is None else self.capacity


def outcome(plan):
    return plan.slots.tolist(), plan.miss_tokens.tolist(), plan.victim_slots.tolist(), plan.compulsory, plan.newest_slot


def tokens(*numbers):
    return np.array(numbers, np.int64)


@st.composite
def decodes(draw):
    """A buffer's sizes and the steps of one sequence: top-k lists in any order, lengths that grow."""
    top_k = draw(st.integers(1, 6))
    capacity = draw(st.integers(top_k, 14))
    length = draw(st.integers(1, 20))
    steps = []
    for _ in range(draw(st.integers(1, 25))):
        chosen = draw(st.lists(st.integers(0, length - 1), max_size=min(top_k, length), unique=True))
        steps.append((chosen, length))
        length += draw(st.integers(0, 2))
    return top_k, capacity, steps


@settings(max_examples=400, deadline=None)
@given(decodes(), st.booleans())
def test_every_plan_is_the_rules(decode, with_newest):
    top_k, capacity, steps = decode
    buffer, model = HotBuffer(capacity, top_k), RuleModel(capacity)
    for chosen, length in steps:
        length = length if with_newest else None
        assert outcome(buffer.plan(tokens(*chosen), length)) == model.step(chosen, length)


@settings(max_examples=200, deadline=None)
@given(decodes())
def test_following_the_plan_puts_every_asked_row_into_its_slot(decode):
    top_k, capacity, steps = decode
    buffer = HotBuffer(capacity, top_k)
    held = np.full(buffer.num_slots, -1)
    for chosen, length in steps:
        plan = buffer.plan(tokens(*chosen), length)
        held[plan.victim_slots] = plan.miss_tokens
        held[plan.newest_slot] = length - 1
        assert held[plan.slots].tolist() == chosen


def test_the_least_recently_used_slots_are_the_victims_in_order():
    buffer = HotBuffer(4, 2)
    for pair in [(0, 1), (2, 3), (0, 1)]:
        buffer.plan(tokens(*pair))
    plan = buffer.plan(tokens(9, 8))
    assert plan.victim_slots.tolist() == [2, 3]
    assert buffer.resident_tokens().tolist() == [0, 1, 8, 9]


def test_slots_filled_in_a_step_are_older_than_slots_hit_in_it():
    buffer = HotBuffer(3, 2)
    buffer.plan(tokens(0, 1))
    buffer.plan(tokens(0, 5))  # hit 0, fill 5; order is now: 1, 5, 0
    assert buffer.plan(tokens(6, 7)).victim_slots.tolist() == [1, 2]
    assert 0 in buffer.resident_tokens()


def test_the_newest_token_is_never_fetched_and_its_slot_is_no_victim():
    buffer = HotBuffer(2, 2)
    plan = buffer.plan(tokens(0, 9), length=10)
    assert (plan.miss_tokens.tolist(), plan.newest_slot, plan.slots[1]) == ([0], 2, 2)
    later = buffer.plan(tokens(9, 10), length=11)  # token 9 had the newest slot and no other: now it is fetched
    assert (later.miss_tokens.tolist(), later.slots.tolist()) == ([9], [later.victim_slots[0], 2])


def test_a_sequence_as_long_as_the_buffer_is_direct_and_one_token_more_is_not():
    at_capacity, above = HotBuffer(8, 4), HotBuffer(8, 4)
    assert at_capacity.plan(tokens(7, 3), length=8).slots.tolist() == [7, 3]
    assert above.plan(tokens(8, 3), length=9).slots.tolist() == [8, 0]


def test_tokens_of_the_direct_path_stay_when_the_sequence_outgrows_the_buffer():
    buffer = HotBuffer(4, 2)
    buffer.plan(tokens(1, 3), length=4)
    plan = buffer.plan(tokens(1, 4), length=5)
    assert (plan.misses, plan.slots.tolist()) == (0, [1, 4])
    assert buffer.plan(tokens(0, 2), length=6).victim_slots.tolist() == [0, 2], "empty slots go first"


def test_counters_sum_hits_misses_and_compulsory_and_give_bytes_and_lines():
    buffer = HotBuffer(2, 2)
    for pair in [(0, 1), (1, 2), (0, 1)]:
        buffer.plan(tokens(*pair))
    counters = buffer.counters
    assert (counters.steps, counters.hits, counters.misses, counters.compulsory) == (3, 2, 4, 3)
    assert counters.fetched_bytes(KvLayout.bf16()) == 4 * 1152
    assert counters.fetched_lines(KvLayout.fp8()) == 4 * 11
    assert counters + Counters(1, 1, 1, 1) == Counters(4, 3, 5, 4)


@pytest.mark.parametrize(
    ("topk", "length", "message"),
    [
        (tokens(3, 3), None, r"topk\[1\]=3 is named twice"),
        (tokens(0, 1, 0), 40, r"topk\[2\]=0 is named twice"),
        (tokens(1, -1), None, r"topk\[1\]=-1 lies outside"),
        (tokens(40), 40, r"topk\[0\]=40 lies outside \[0, 40\)"),
        (tokens(0, 1, 2, 3, 4), None, r"topk holds 5 entries, above top_k=4"),
        (tokens(0), 19, r"length=19 is below 20; forget\(\) before a rollback"),
        (np.array([0], np.int32), 40, "must be int64"),
        (np.arange(4)[::2], 40, "contiguous"),
        (tokens(0, 1 << 31), None, "token 2147483648 is beyond 2147483646"),
        (tokens(0), 1 << 31, "token 2147483647 is beyond 2147483646"),
    ],
)
def test_a_refused_step_names_its_fault_and_changes_nothing(topk, length, message):
    buffer, untouched = HotBuffer(8, 4), HotBuffer(8, 4)
    for each in (buffer, untouched):
        each.plan(tokens(0, 5, 19), length=20)
    with pytest.raises(GeometryError, match=message):
        buffer.plan(topk, length)
    follow_up = tokens(5, 1, 2, 3)
    assert outcome(buffer.plan(follow_up, 60)) == outcome(untouched.plan(follow_up, 60))


def test_a_refused_step_beyond_the_capacity_does_not_end_the_direct_path():
    buffer = HotBuffer(4, 4)
    buffer.plan(tokens(0, 1), length=2)
    with pytest.raises(GeometryError, match="lies outside"):
        buffer.plan(tokens(99, 1), length=5)
    assert buffer.plan(tokens(2), length=3).newest_slot == 2


def test_a_capacity_below_top_k_is_refused():
    with pytest.raises(GeometryError, match="capacity=3 is below top_k=4"):
        HotBuffer(3, 4)


def test_forgetting_drops_tokens_and_reset_counts_too():
    buffer = HotBuffer(4, 2)
    buffer.plan(tokens(0, 1), length=30)
    buffer.forget()
    assert (buffer.counters.steps, buffer.resident_tokens().tolist()) == (1, [])
    assert buffer.plan(tokens(1), length=10).misses == 1, "a shorter sequence is fine again"
    buffer.reset()
    assert buffer.counters == Counters()
    assert buffer.plan(tokens(0, 1), length=3).compulsory == 2

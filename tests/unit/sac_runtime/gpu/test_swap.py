"""Swap-in on a device beside the CPU's hot buffer: the same plans to the slot, the right bytes in every slot."""

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sac_runtime.errors import GeometryError
from sac_runtime.fetch.hot_buffer import HotBuffer
from sac_runtime.gpu.buffers import BatchBuffers, BatchShape
from sac_runtime.gpu.registration import RegisteredStore
from sac_runtime.gpu.rows import place_newest
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import KvLayout
from sac_runtime.rows.placement import LayerRows
from tests.support.device_swaps import cuda_swap, triton_swap

LAYOUT = KvLayout("words", 16, 32)
SIZES = [(1, 1), (3, 4), (6, 6), (6, 14)]  # top-k and capacity
TOKENS, PAGE_TOKENS = 64, 4
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GENERATE = [
    Phase.explicit,
    Phase.reuse,
    Phase.generate,
]  # steps tell enough; shrinking them in an interpreter takes minutes
WAYS = [triton_swap, cuda_swap]


@pytest.fixture(scope="module")
def store():
    """Rows that say their own number."""
    with MappedStore.anonymous(LAYOUT, 1000, huge_pages=False) as mapped:
        mapped.write_rows(np.arange(1000), numbered(np.arange(1000)))
        with RegisteredStore(mapped, DEVICE) as registered:
            yield registered


def numbered(rows):
    return np.repeat(np.asarray(rows, np.int64)[:, None] * 7 + 1, 2, axis=1).view(np.uint8)


class Batch:
    """A batch of requests whose pages lie scattered, and the CPU's buffers beside it."""

    def __init__(self, way, store, top_k, capacity, num_requests, num_layers=1):
        shape = BatchShape(num_layers, num_requests, top_k, capacity, TOKENS, PAGE_TOKENS)
        self.buffers = BatchBuffers(shape, LAYOUT, DEVICE)
        self.swap = way(store, self.buffers)
        self.beside = [HotBuffer(capacity, top_k) for _ in range(num_requests)]
        pages = (
            np.random.default_rng(3).permutation(200)[: num_requests * TOKENS // PAGE_TOKENS].reshape(num_requests, -1)
        )
        self.tables = [(each[:, None] * PAGE_TOKENS + np.arange(PAGE_TOKENS)).reshape(-1) for each in pages]
        for request, table in enumerate(self.tables):
            self.buffers.place(request, LayerRows(0, TOKENS, table))

    def fetch(self, chosen, lengths, layer=0, first_row=100):
        topk = torch.full((len(chosen), self.buffers.shape.top_k), -7, dtype=torch.int32)
        for request, tokens in enumerate(chosen):
            topk[request, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
        counts = torch.tensor([len(tokens) for tokens in chosen], dtype=torch.int32)
        numbers = [each.to(DEVICE) for each in (topk, counts, torch.tensor(lengths, dtype=torch.int32))]
        return self.swap.fetch(layer, *numbers, first_row)

    def outcome(self, request, count, length):
        plan = self.buffers.plan
        misses = int(plan.num_misses[request])
        newest_slot = None if length < 0 else self.buffers.newest_slot(0, request, length)
        listed = [each[request, :misses].tolist() for each in (plan.miss_tokens, plan.victim_slots)]
        return plan.slots[request, :count].tolist(), *listed, newest_slot

    def require_same(self, chosen, lengths):
        self.fetch(chosen, lengths)
        self.buffers.raise_refusals()
        self.place_newest(lengths)
        for request, (tokens, length) in enumerate(zip(chosen, lengths, strict=True)):
            plan = self.beside[request].plan(np.array(tokens, np.int64), None if length < 0 else length)
            expected = plan.slots.tolist(), plan.miss_tokens.tolist(), plan.victim_slots.tolist(), plan.newest_slot
            assert self.outcome(request, len(tokens), length) == expected
            rows = self.tables[request][tokens] + 100 if tokens else []
            assert np.array_equal(self.buffers.rows[0, request].cpu().numpy()[expected[0]], numbered(rows))

    def place_newest(self, lengths):
        """Each newest token's row into its slot, from values made here."""
        rows = [table[max(length - 1, 0)] + 100 for table, length in zip(self.tables, lengths, strict=True)]
        values, numbers = torch.from_numpy(numbered(rows)), torch.tensor(lengths, dtype=torch.int32)
        place_newest(self.buffers, 0, values.to(DEVICE), numbers.to(DEVICE))

    def counters(self):
        return sum((buffer.counters for buffer in self.beside[1:]), self.beside[0].counters)


@st.composite
def decodes(draw):
    """Sizes, and steps of two requests: top-k lists in any order, lengths that grow from below the capacity to beyond it."""
    top_k, capacity = draw(st.sampled_from(SIZES))
    lengths = [draw(st.integers(1, 20)) for _ in range(2)]
    replayed = draw(st.booleans())
    steps = []
    for _ in range(draw(st.integers(1, 8))):
        chosen = [
            draw(st.lists(st.integers(0, length - 1), max_size=min(top_k, length), unique=True)) for length in lengths
        ]
        steps.append((chosen, [-1, -1] if replayed else list(lengths)))
        lengths = [length + draw(st.integers(0, 2)) for length in lengths]
    return top_k, capacity, steps


@pytest.mark.parametrize("way", WAYS)
def test_every_plan_is_the_cpu_buffers_and_every_row_the_pools(way, store):
    @settings(max_examples=4 if way is triton_swap else 60, deadline=None, phases=GENERATE)
    @given(decodes())
    def check(decode):
        top_k, capacity, steps = decode
        batch = Batch(way, store, top_k, capacity, 2)
        for chosen, lengths in steps:
            batch.require_same(chosen, lengths)
        assert batch.buffers.counts(0) == batch.counters()

    check()


@pytest.mark.parametrize("way", WAYS)
def test_a_long_decode_of_several_requests_keeps_to_the_rule(way, store):
    """Lengths on both sides of the capacity, one request out of the batch; at DeepSeek's sizes where there is a GPU."""
    random = np.random.default_rng(5)
    top_k, capacity, steps = (16, 40, 4)
    batch = Batch(way, store, top_k, capacity, 3)
    lengths = [20, 38, 60]
    for _ in range(steps):
        chosen = [random.permutation(length)[: random.integers(1, top_k + 1)].tolist() for length in lengths]
        batch.require_same(chosen, lengths)
        lengths = [length + 1 for length in lengths]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("chosen", "length", "refusal"),
    [
        ([3, 8, 3], 9, r"topk\[2\] lies outside the sequence or is named twice"),
        ([3, 9, 3], 9, r"topk\[1\] lies outside"),
        ([-1], 9, r"topk\[0\] lies outside"),
        ([0], 7, "length is below that of the step before"),
        ([0], TOKENS + 1, "length is .* beyond tokens_capacity"),
        ([4], 8, "the row of a miss lies outside the store"),
    ],
)
def test_a_request_that_cannot_be_planned_changes_nothing_and_says_why(way, store, chosen, length, refusal):
    batch = Batch(way, store, 6, 6, 2)
    batch.require_same([[0, 1], [5]], [8, 8])  # of capacity 6: under LRU
    before = [
        each.clone() for each in (batch.buffers.tokens, batch.buffers.order, batch.buffers.held, batch.buffers.rows)
    ]
    if "row of a miss" in refusal:
        batch.buffers.pages[0] += 10_000
    batch.fetch([chosen, []], [length, 0])
    assert batch.buffers.plan.slots[0].tolist() == [-1] * 6
    assert batch.buffers.plan.num_misses.tolist() == [0, 0]
    after = batch.buffers.tokens, batch.buffers.order, batch.buffers.held, batch.buffers.rows
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    with pytest.raises(GeometryError, match=f"request 0: {refusal}"):
        batch.buffers.raise_refusals()


@pytest.mark.parametrize("way", WAYS)
def test_a_broken_page_table_is_noticed(way, store):
    """The check of bytes must see a row that lies elsewhere."""
    batch = Batch(way, store, 6, 14, 1)
    batch.buffers.pages += 1
    with pytest.raises(AssertionError):
        batch.require_same([[0, 5, 7]], [9])

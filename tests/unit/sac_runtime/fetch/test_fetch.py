"""The fetch path end to end, against a dense masked reference over a truth that no store has held."""

import os

import numpy as np
import pytest

from emulation.conformance.oracle import dense_masked_attention
from guest.agent.guards import layers_with_wrong_canary, poison_all_but, poison_rows, write_canaries
from sac_runtime.errors import GeometryError, RowRangeError, StoreError
from sac_runtime.fetch.attention import softmax_scale
from sac_runtime.fetch.hot_buffer import HotBuffer
from sac_runtime.fetch.request import FetchConfig, RequestKv, breakeven_steps, layer_counters
from sac_runtime.fetch.residency import Residency
from sac_runtime.fetch.step import LayerQuery, step
from sac_runtime.memory.backing import Backing
from sac_runtime.memory.gather import TwoStepGather, slot_gather
from sac_runtime.memory.mapped import MappedGather, MappedStore
from sac_runtime.rows.layout import KvLayout
from sac_runtime.rows.placement import LayerFirst, LayerRows
from sac_runtime.rows.quantise import pack_rows, unpack_rows

SCALE = softmax_scale()
HEADS, LAYERS, TOP_K = 4, 3, 16


class PlainStore:
    """The seam and nothing more: no gather of its own."""

    def __init__(self, inner):
        self.inner = inner

    layout = property(lambda self: self.inner.layout)

    def read_rows(self, rows, out):
        return self.inner.read_rows(rows, out)

    def write_rows(self, rows, values):
        return self.inner.write_rows(rows, values)

    def slot_gather(self, buffer, slots):
        return None


class Sequence:
    """A sequence whose KV, queries and scores are drawn once; what any store should hold, and what attention should give."""

    def __init__(self, layout, capacity, seed=0):
        self.layout = layout
        self.random = np.random.default_rng(seed)
        shape = (LAYERS, capacity)
        self.rows = np.stack(
            [
                pack_rows(layout, self.normal(capacity, layout.latent), self.normal(capacity, layout.rope))
                for _ in range(LAYERS)
            ]
        )
        self.popularity = self.normal(*shape)

    def normal(self, *shape):
        return self.random.standard_normal(shape).astype(np.float32)

    def query(self, layer, length):
        scores = self.popularity[layer, :length] + self.normal(length)
        return LayerQuery(self.rows[layer, length - 1], self.normal(HEADS, 512), self.normal(HEADS, 64), lambda: scores)

    def expected(self, layer, query, length):
        scores = query.score()
        chosen = np.argsort(-scores, kind="stable")[:TOP_K]
        latent, rope = unpack_rows(self.layout, self.rows[layer, :length])
        joined = np.hstack([query.q_latent, query.q_rope])
        return dense_masked_attention(joined, np.hstack([latent, rope]), chosen, SCALE)


def prefill(home, sequence, num_tokens):
    for layer in range(LAYERS):
        home.write(layer, np.arange(num_tokens), sequence.rows[layer, :num_tokens])


def decode(request, sequence, steps, check):
    for _ in range(steps):
        request.begin_step()
        for layer in range(LAYERS):
            query = sequence.query(layer, request.length)
            (done,) = step(layer, [request], [query], SCALE)
            check(done.output, sequence.expected(layer, query, request.length))
        request.write_back()


def assert_close(output, expected):
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


LAYOUTS = [KvLayout.bf16(), KvLayout.fp32(), KvLayout.fp8(), KvLayout.fp8(padded=False)]


@pytest.mark.parametrize("residency", Residency)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.name}-{layout.stride_bytes}")
@pytest.mark.parametrize("num_tokens", [10, 90], ids=["shorter-than-top-k", "longer-than-the-buffer"])
def test_decode_equals_dense_attention_over_the_chosen_entries(layout, residency, num_tokens):
    capacity = 140
    sequence = Sequence(layout, capacity)
    placement = LayerFirst(LAYERS, capacity + 1)
    config = FetchConfig(LAYERS, TOP_K, capacity=TOP_K + 4, residency=residency)
    with MappedStore.anonymous(layout, placement.num_rows) as store:
        poison_rows(store, np.arange(store.num_rows))
        write_canaries(store, placement, token=capacity, num_layers=LAYERS)
        home = Backing(store, placement)
        prefill(home, sequence, num_tokens)
        with RequestKv(home, config, num_tokens, capacity) as request:
            decode(request, sequence, 30, assert_close)
            counters = layer_counters([request])
        assert layers_with_wrong_canary(store, placement, token=capacity, num_layers=LAYERS) == []
        held = np.empty((num_tokens + 30, layout.row_bytes), np.uint8)
        for layer in range(LAYERS):
            home.read(layer, np.arange(num_tokens + 30), held)
            assert np.array_equal(held, sequence.rows[layer, : num_tokens + 30]), "every new row is back in the pool"
    fetches = [each.misses > 0 for each in counters]
    assert fetches == [residency is not Residency.RESIDENT] * LAYERS


def test_a_batch_of_requests_with_unequal_lengths_is_each_as_if_alone():
    layout, capacity = KvLayout.fp8(), 100
    sequences = [Sequence(layout, capacity, seed) for seed in range(3)]
    placements = [LayerFirst(LAYERS, capacity, first_row=i * LAYERS * capacity) for i in range(3)]
    config = FetchConfig(LAYERS, TOP_K, capacity=TOP_K + 1)
    with MappedStore.anonymous(layout, 3 * placements[0].num_rows) as store:
        homes = [Backing(store, placement) for placement in placements]
        for home, sequence, length in zip(homes, sequences, (5, 17, 80), strict=True):
            prefill(home, sequence, length)
        batch = [RequestKv(home, config, length, capacity) for home, length in zip(homes, (5, 17, 80), strict=True)]
        for _ in range(15):
            for request in batch:
                request.begin_step()
            for layer in range(LAYERS):
                queries = [s.query(layer, r.length) for s, r in zip(sequences, batch, strict=True)]
                steps = step(layer, batch, queries, SCALE)
                for sequence, request, query, done in zip(sequences, batch, queries, steps, strict=True):
                    assert_close(done.output, sequence.expected(layer, query, request.length))
            for request in batch:
                request.write_back()


def test_rows_that_a_step_did_not_choose_are_never_read():
    layout, capacity, length = KvLayout.fp8(), 200, 120
    sequence, placement = Sequence(layout, capacity), LayerFirst(LAYERS, capacity)
    with MappedStore.anonymous(layout, placement.num_rows) as store:
        home = Backing(store, placement)
        prefill(home, sequence, length)
        with RequestKv(home, FetchConfig(LAYERS, TOP_K, TOP_K), length, capacity) as request:
            request.begin_step()
            query = sequence.query(0, length + 1)
            poison_all_but(store, placement, 0, np.argsort(-query.score())[:TOP_K])
            (done,) = step(0, [request], [query], SCALE)
    assert_close(done.output, sequence.expected(0, query, length + 1))


def test_a_store_that_only_has_the_seam_gives_the_same_bytes_as_one_that_gathers_into_slots():
    layout, capacity = KvLayout.fp8(), 100
    sequence, placement = Sequence(layout, capacity), LayerFirst(LAYERS, capacity)
    with MappedStore.anonymous(layout, placement.num_rows) as store:
        prefill(Backing(store, placement), sequence, 80)
        with RequestKv(
            Backing(PlainStore(store), placement), FetchConfig(LAYERS, TOP_K, TOP_K), 80, capacity
        ) as request:
            decode(request, sequence, 10, assert_close)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.name}-{layout.stride_bytes}")
def helped(layout, num_rows):
    return MappedStore.anonymous(layout, num_rows, gather_cpus=(max(os.sched_getaffinity(0)),))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.name}-{layout.stride_bytes}")
@pytest.mark.parametrize("other", ["staged", "by-a-team"])
def test_every_gather_plans_and_brings_the_same(layout, other):
    random, placement = np.random.default_rng(0), LayerFirst(1, 400)
    config = FetchConfig(1, TOP_K, TOP_K + 5)
    with MappedStore.anonymous(layout, placement.num_rows) as store, helped(layout, placement.num_rows) as by_team:
        values = random.integers(0, 256, (400, layout.row_bytes), np.uint8)
        for each in (store, by_team):
            each.write_rows(np.arange(400), values)
        below = PlainStore(store) if other == "staged" else by_team
        at_once = RequestKv(Backing(store, placement), config, 10, 400)
        in_two = RequestKv(Backing(below, placement), config, 10, 400)
        for request in (at_once, in_two):
            request.slots[:] = 0
        for length in range(11, 200):  # from the direct path into the LRU one
            topk = random.permutation(length)[: min(TOP_K, length)]
            at_once.begin_step()
            in_two.begin_step()
            plan, elapsed_ns = at_once.fetch(0, topk)
            other_plan, _ = in_two.fetch(0, topk)
            assert all(np.array_equal(a, b) for a, b in zip(plan, other_plan, strict=True))
            assert np.array_equal(at_once.slots, in_two.slots)
            assert elapsed_ns > 0 or not plan.misses
        assert at_once.buffers[0].counters == in_two.buffers[0].counters
        assert at_once.traffic.fetched_bytes == in_two.traffic.fetched_bytes > 0


def test_a_store_s_own_gather_is_taken_where_it_offers_one():
    with MappedStore.anonymous(KvLayout.bf16(), 50) as store:
        buffer, slots = HotBuffer(4, 4), np.zeros((5, 1152), np.uint8)
        assert isinstance(slot_gather(store, buffer, slots), MappedGather)
        assert isinstance(slot_gather(PlainStore(store), buffer, slots), TwoStepGather)


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        (np.zeros((5, 656), np.uint8), r"slots is uint8 of shape \(5, 656\)"),
        (np.zeros((5, 1152), np.int8), "slots is int8"),
        (np.zeros((5, 2304), np.uint8)[:, ::2], "contiguous"),
        (np.broadcast_to(np.zeros(1152, np.uint8), (1, 1152)), "slots: is read-only"),
    ],
)
def test_slots_that_rows_could_not_go_into_are_refused_before_any_step(slots, message):
    with MappedStore.anonymous(KvLayout.bf16(), 50) as store, pytest.raises(GeometryError, match=message):
        store.slot_gather(HotBuffer(4, 4), slots)


class Tabled:
    """A placement by table, whatever the table is."""

    def __init__(self, table, num_tokens):
        self.place = LayerRows(0, num_tokens, table)

    def layer(self, layer):
        return self.place


def test_a_table_says_where_tokens_lie():
    table = np.random.default_rng(0).permutation(50)
    with MappedStore.anonymous(KvLayout.bf16(), 50) as store:
        store.write_rows(table, np.repeat(np.arange(50, dtype=np.uint8)[:, None], 1152, axis=1))
        with RequestKv(Backing(store, Tabled(table, 50)), FetchConfig(1, 4, 4), 20, 50) as request:
            request.begin_step()
            plan, _ = request.fetch(0, np.array([3, 17, 5]))
            assert request.chosen_rows(0, plan)[:, 0].tolist() == [3, 17, 5]


@pytest.mark.parametrize(
    ("table", "num_tokens", "message"),
    [
        (np.arange(50, dtype=np.int32), 50, "table is int32"),
        (np.arange(100)[::2], 50, "contiguous"),
        (np.arange(49), 50, r"shape \(49,\)"),
        (np.arange(20), 20, "length=21 exceeds the 20 tokens that it places"),
    ],
)
def test_a_table_that_native_code_could_not_follow_is_refused(table, num_tokens, message):
    with MappedStore.anonymous(KvLayout.bf16(), 50) as store:
        request = RequestKv(Backing(store, Tabled(table, num_tokens)), FetchConfig(1, 4, 4), 20, 50)
        request.begin_step()
        with pytest.raises((GeometryError, RowRangeError), match=message):
            request.fetch(0, np.array([3, 5]))


def test_a_step_that_names_a_token_twice_plans_and_moves_nothing():
    with MappedStore.anonymous(KvLayout.bf16(), 50) as store:
        request = RequestKv(Backing(store, LayerFirst(1, 50)), FetchConfig(1, 4, 4), 20, 50)
        request.slots[:] = 0
        request.begin_step()
        with pytest.raises(GeometryError, match=r"topk\[2\]=3 is named twice"):
            request.fetch(0, np.array([3, 5, 3]))
        assert not request.slots.any()
        assert request.traffic.fetched_bytes == request.traffic.fetched_ns == 0
        assert request.fetch(0, np.array([3, 5]))[0].misses == 2


def test_a_request_over_a_closed_store_is_refused_and_not_read():
    store = MappedStore.anonymous(KvLayout.bf16(), 50)
    request = RequestKv(Backing(store, LayerFirst(1, 50)), FetchConfig(1, 4, 4), 20, 50)
    request.begin_step()
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        request.fetch(0, np.array([3, 5]))


@pytest.mark.parametrize("seen_as", [lambda store: store, PlainStore], ids=["native", "staged"])
def test_a_fetch_that_fails_leaves_no_row_taken_for_present(seen_as):
    layout = KvLayout.bf16()
    with MappedStore.anonymous(layout, 50) as store:
        placement = LayerFirst(1, 100)  # of which the store holds half
        request = RequestKv(Backing(seen_as(store), placement), FetchConfig(1, 4, 4), 90, 100)
        request.begin_step()
        for _ in range(2):
            with pytest.raises(RowRangeError, match=r"rows\[2\]=80 lies outside \[0, 50\)"):
                request.fetch(0, np.array([1, 2, 80]))
            assert request.buffers[0].resident_tokens().size == 0
        assert request.traffic.fetched_bytes == 0
        assert request.fetch(0, np.array([1, 2]))[0].misses == 2


def test_traffic_counts_the_payload_that_moved():
    layout, capacity = KvLayout.fp8(), 100
    sequence, placement = Sequence(layout, capacity), LayerFirst(LAYERS, capacity)
    with MappedStore.anonymous(layout, placement.num_rows) as store:
        home = Backing(store, placement)
        prefill(home, sequence, 80)
        for residency, prefix_bytes in [(Residency.SPARSE, 0), (Residency.FULL_PREFIX, LAYERS * 80 * 656)]:
            config = FetchConfig(LAYERS, TOP_K, TOP_K, residency)
            with RequestKv(home, config, 80, capacity) as request:
                decode(request, sequence, 2, assert_close)
                misses = sum(each.misses for each in layer_counters([request]))
                traffic = request.traffic
            assert traffic.prefix_bytes == prefix_bytes
            assert traffic.fetched_bytes == misses * 656
            assert traffic.written_bytes == 2 * LAYERS * 656


def test_a_step_is_not_over_before_every_layer_has_its_new_row():
    with MappedStore.anonymous(KvLayout.bf16(), 60) as store:
        request = RequestKv(Backing(store, LayerFirst(3, 20)), FetchConfig(3, 4, 4), 9, 11)
        row = np.full(1152, 7, np.uint8)
        for length in (10, 11):
            request.begin_step()
            for layer in (0, 2):
                request.place_newest(layer, request.fetch(layer, np.array([length - 1]))[0], row)
            with pytest.raises(GeometryError, match=rf"layers \[1\] have no row for token {length - 1}"):
                request.write_back()
            request.place_newest(1, request.fetch(1, np.array([length - 1]))[0], row)
            request.write_back()
        with pytest.raises(GeometryError, match="length=11 has reached tokens_capacity"):
            request.begin_step()
        held = np.empty((60, 1152), np.uint8)
        store.read_rows(np.arange(60), held)
        assert np.flatnonzero(held.any(axis=1)).tolist() == [9, 10, 29, 30, 49, 50]


def test_top_k_moves_more_than_the_prefix_after_length_over_misses_steps():
    assert breakeven_steps(length=131072, misses_per_step=128) == 1024
    assert breakeven_steps(length=131072, misses_per_step=0) == float("inf")


def test_a_request_longer_than_its_room_is_refused():
    store = MappedStore.anonymous(KvLayout.bf16(), 10)
    with store, pytest.raises(GeometryError, match="num_tokens=11 exceeds tokens_capacity=10"):
        RequestKv(Backing(store, LayerFirst(1, 10)), FetchConfig(1), 11, 10)


class OffByOneLayer(LayerFirst):
    def layer(self, layer):
        return super().layer((layer + 1) % self.num_layers)


class OffByOneToken(LayerFirst):
    def layer(self, layer):
        place = super().layer(layer)
        return place._replace(first_row=place.first_row + 1)


def shuffled_victims(monkeypatch):
    fetch = RequestKv.fetch

    def fetch_into_others(self, layer, topk):
        plan, elapsed_ns = fetch(self, layer, topk)
        self.slots[layer, plan.victim_slots] = self.slots[layer, plan.victim_slots[::-1]]
        return plan, elapsed_ns

    monkeypatch.setattr(RequestKv, "fetch", fetch_into_others)


def unsorted_slots(monkeypatch):
    monkeypatch.setattr(RequestKv, "chosen_rows", lambda self, layer, plan: self.slots[layer][plan.slots // 2])


def newest_one_slot_off(monkeypatch):
    def place(self, layer, plan, row):
        right(self, layer, plan._replace(newest_slot=plan.newest_slot - 1), row)

    right = RequestKv.place_newest
    monkeypatch.setattr(RequestKv, "place_newest", place)


def newest_row_of_the_token_before(monkeypatch):
    write = Backing.write_token
    monkeypatch.setattr(Backing, "write_token", lambda self, token, values: write(self, token - 1, values))


def newest_rows_a_layer_off(monkeypatch):
    write = Backing.write_token
    monkeypatch.setattr(
        Backing, "write_token", lambda self, token, values: write(self, token, np.roll(values, 1, axis=0))
    )


@pytest.mark.parametrize(
    "break_it",
    [
        shuffled_victims,
        unsorted_slots,
        newest_one_slot_off,
        newest_row_of_the_token_before,
        newest_rows_a_layer_off,
    ],
)
def test_the_reference_notices_a_broken(break_it, monkeypatch):
    layout, capacity = KvLayout.fp8(), 100
    sequence, placement = Sequence(layout, capacity), LayerFirst(LAYERS, capacity)
    with MappedStore.anonymous(layout, placement.num_rows) as store:
        home = Backing(store, placement)
        prefill(home, sequence, 60)
        break_it(monkeypatch)
        with RequestKv(home, FetchConfig(LAYERS, TOP_K, TOP_K), 60, capacity) as request, pytest.raises(AssertionError):
            decode(request, sequence, 20, assert_close)


@pytest.mark.parametrize("wrong", [OffByOneLayer, OffByOneToken])
def test_the_reference_notices_a_wrong_offset(wrong):
    layout, capacity = KvLayout.fp8(), 100
    sequence = Sequence(layout, capacity)
    with MappedStore.anonymous(layout, LAYERS * capacity + 1) as store:
        prefill(Backing(store, LayerFirst(LAYERS, capacity)), sequence, 60)
        request = RequestKv(Backing(store, wrong(LAYERS, capacity)), FetchConfig(LAYERS, TOP_K, TOP_K), 60, capacity)
        with pytest.raises(AssertionError):
            decode(request, sequence, 20, assert_close)

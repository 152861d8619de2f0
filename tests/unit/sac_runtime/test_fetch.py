"""The fetch path end to end, against a dense masked reference over a truth that no store has held."""

import numpy as np
import pytest

from sac_runtime.attention import dense_masked_reference, softmax_scale
from sac_runtime.errors import GeometryError, RowRangeError
from sac_runtime.fetch import (
    FetchConfig,
    Home,
    LayerQuery,
    Request,
    Residency,
    SlotReader,
    breakeven_steps,
    layer_counters,
    step,
)
from sac_runtime.guards import layers_with_wrong_canary, poison_all_but, poison_rows, write_canaries
from sac_runtime.hot_buffer import HotBuffer
from sac_runtime.layout import KvLayout, LayerFirst
from sac_runtime.quantise import pack_rows, unpack_rows
from sac_runtime.store import MappedStore

SCALE = softmax_scale()
HEADS, LAYERS, TOP_K = 4, 3, 16


class PlainStore:
    """The seam and nothing more: no gather into slots."""

    def __init__(self, inner):
        self.inner = inner

    layout = property(lambda self: self.inner.layout)

    def read_rows(self, rows, out):
        return self.inner.read_rows(rows, out)

    def write_rows(self, rows, values):
        return self.inner.write_rows(rows, values)


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
        return LayerQuery(lambda: scores, self.rows[layer, length - 1], self.normal(HEADS, 512), self.normal(HEADS, 64))

    def expected(self, layer, query, length):
        scores = query.score()
        chosen = np.argsort(-scores, kind="stable")[:TOP_K]
        latent, rope = unpack_rows(self.layout, self.rows[layer, :length])
        return dense_masked_reference(query.q_latent, query.q_rope, latent, rope, chosen, SCALE)


def prefill(home, sequence, num_tokens):
    for layer in range(LAYERS):
        home.write(layer, np.arange(num_tokens), sequence.rows[layer, :num_tokens])


def decode(request, sequence, steps, check):
    for _ in range(steps):
        request.begin_step()
        for layer in range(LAYERS):
            query = sequence.query(layer, request.length)
            (output,) = step(layer, [request], [query], SCALE)
            check(output, sequence.expected(layer, query, request.length))


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
        home = Home(store, placement)
        prefill(home, sequence, num_tokens)
        with Request(home, config, num_tokens, capacity) as request:
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
        homes = [Home(store, placement) for placement in placements]
        for home, sequence, length in zip(homes, sequences, (5, 17, 80), strict=True):
            prefill(home, sequence, length)
        batch = [Request(home, config, length, capacity) for home, length in zip(homes, (5, 17, 80), strict=True)]
        for _ in range(15):
            for request in batch:
                request.begin_step()
            for layer in range(LAYERS):
                queries = [s.query(layer, r.length) for s, r in zip(sequences, batch, strict=True)]
                outputs = step(layer, batch, queries, SCALE)
                for sequence, request, query, output in zip(sequences, batch, queries, outputs, strict=True):
                    assert_close(output, sequence.expected(layer, query, request.length))


def test_rows_that_a_step_did_not_choose_are_never_read():
    layout, capacity, length = KvLayout.fp8(), 200, 120
    sequence, placement = Sequence(layout, capacity), LayerFirst(LAYERS, capacity)
    with MappedStore.anonymous(layout, placement.num_rows) as store:
        home = Home(store, placement)
        prefill(home, sequence, length)
        with Request(home, FetchConfig(LAYERS, TOP_K, TOP_K), length, capacity) as request:
            request.begin_step()
            query = sequence.query(0, length + 1)
            poison_all_but(store, placement, 0, np.argsort(-query.score())[:TOP_K])
            (output,) = step(0, [request], [query], SCALE)
    assert_close(output, sequence.expected(0, query, length + 1))


def test_a_store_that_only_has_the_seam_gives_the_same_bytes_as_one_that_gathers_into_slots():
    layout, capacity = KvLayout.fp8(), 100
    sequence, placement = Sequence(layout, capacity), LayerFirst(LAYERS, capacity)
    with MappedStore.anonymous(layout, placement.num_rows) as store:
        prefill(Home(store, placement), sequence, 80)
        assert isinstance(store, SlotReader)
        assert not isinstance(PlainStore(store), SlotReader)
        with Request(Home(PlainStore(store), placement), FetchConfig(LAYERS, TOP_K, TOP_K), 80, capacity) as request:
            decode(request, sequence, 10, assert_close)


def test_a_fetch_that_fails_leaves_no_row_taken_for_present():
    layout = KvLayout.bf16()
    with MappedStore.anonymous(layout, 50) as store:
        placement = LayerFirst(1, 100)  # of which the store holds half
        request = Request(Home(store, placement), FetchConfig(1, 4, 4), 90, 100)
        request.begin_step()
        plan = request.plan(0, np.array([1, 2, 80]))
        with pytest.raises(RowRangeError, match=r"rows\[2\]=80 lies outside \[0, 50\)"):
            request.gather(0, plan)
        assert request.plan(0, np.array([1, 2])).misses == 2


def test_traffic_counts_the_payload_that_moved():
    layout, capacity = KvLayout.fp8(), 100
    sequence, placement = Sequence(layout, capacity), LayerFirst(LAYERS, capacity)
    with MappedStore.anonymous(layout, placement.num_rows) as store:
        home = Home(store, placement)
        prefill(home, sequence, 80)
        for residency, prefix_bytes in [(Residency.SPARSE, 0), (Residency.FULL_PREFIX, LAYERS * 80 * 656)]:
            config = FetchConfig(LAYERS, TOP_K, TOP_K, residency)
            with Request(home, config, 80, capacity) as request:
                decode(request, sequence, 2, assert_close)
                misses = sum(each.misses for each in layer_counters([request]))
                traffic = request.traffic
            assert traffic.prefix_bytes == prefix_bytes
            assert traffic.fetched_bytes == misses * 656
            assert traffic.written_bytes == 2 * LAYERS * 656


def test_top_k_moves_more_than_the_prefix_after_length_over_misses_steps():
    assert breakeven_steps(length=131072, misses_per_step=128) == 1024
    assert breakeven_steps(length=131072, misses_per_step=0) == float("inf")


def test_a_request_longer_than_its_room_is_refused():
    store = MappedStore.anonymous(KvLayout.bf16(), 10)
    with store, pytest.raises(GeometryError, match="num_tokens=11 exceeds tokens_capacity=10"):
        Request(Home(store, LayerFirst(1, 10)), FetchConfig(1), 11, 10)


class OffByOneLayer(LayerFirst):
    def rows(self, layer, tokens):
        return super().rows((layer + 1) % self.num_layers, tokens)


class OffByOneToken(LayerFirst):
    def rows(self, layer, tokens):
        return super().rows(layer, np.minimum(tokens + 1, self.tokens_capacity - 1))


def shuffled_victims(monkeypatch):
    plan_of = HotBuffer.plan

    def plan(self, topk, length=None):
        right = plan_of(self, topk, length)
        right.victim_slots[:] = right.victim_slots[::-1]
        return right

    monkeypatch.setattr(HotBuffer, "plan", plan)


def unsorted_slots(monkeypatch):
    monkeypatch.setattr(Request, "chosen_rows", lambda self, layer, plan: self.slots[layer][plan.slots // 2])


def newest_one_slot_off(monkeypatch):
    def place(self, layer, plan, row):
        self.slots[layer, plan.newest_slot - 1] = row

    monkeypatch.setattr(Request, "place_newest", place)


def newest_row_of_the_token_before(monkeypatch):
    write = Request.write
    monkeypatch.setattr(Request, "write_back", lambda self, layer, row: write(self, layer, self.length - 2, row[None]))


@pytest.mark.parametrize(
    "break_it", [shuffled_victims, unsorted_slots, newest_one_slot_off, newest_row_of_the_token_before]
)
def test_the_reference_notices_a_broken(break_it, monkeypatch):
    layout, capacity = KvLayout.fp8(), 100
    sequence, placement = Sequence(layout, capacity), LayerFirst(LAYERS, capacity)
    with MappedStore.anonymous(layout, placement.num_rows) as store:
        home = Home(store, placement)
        prefill(home, sequence, 60)
        break_it(monkeypatch)
        with Request(home, FetchConfig(LAYERS, TOP_K, TOP_K), 60, capacity) as request, pytest.raises(AssertionError):
            decode(request, sequence, 20, assert_close)


@pytest.mark.parametrize("wrong", [OffByOneLayer, OffByOneToken])
def test_the_reference_notices_a_wrong_offset(wrong):
    layout, capacity = KvLayout.fp8(), 100
    sequence = Sequence(layout, capacity)
    with MappedStore.anonymous(layout, LAYERS * capacity) as store:
        prefill(Home(store, LayerFirst(LAYERS, capacity)), sequence, 60)
        request = Request(Home(store, wrong(LAYERS, capacity)), FetchConfig(LAYERS, TOP_K, TOP_K), 60, capacity)
        with pytest.raises(AssertionError):
            decode(request, sequence, 20, assert_close)


def test_the_canaries_notice_a_wrong_layer_offset_and_a_wrong_stride():
    layout = KvLayout.fp8()
    placement = LayerFirst(LAYERS, 40)
    with MappedStore.anonymous(layout, placement.num_rows) as store:
        write_canaries(store, placement, token=39, num_layers=LAYERS)
        assert layers_with_wrong_canary(store, OffByOneLayer(LAYERS, 40), token=39, num_layers=LAYERS) == [0, 1, 2]
        assert layers_with_wrong_canary(store, LayerFirst(LAYERS, 39), token=38, num_layers=LAYERS) == [0, 1, 2]
        store.layout = KvLayout.fp8(padded=False)
        assert layers_with_wrong_canary(store, placement, token=39, num_layers=LAYERS) == [0, 1, 2]

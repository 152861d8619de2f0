"""The oracle's oracle: the code is broken on purpose, and the comparison with the untouched model notices."""

import numpy as np
import pytest

from sac_runtime.fetch.request import RequestKv
from sac_runtime.models.pooled import pooled
from sac_runtime.pool.pool import Pool
from sac_runtime.pool.sequence import PoolSequence

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # what stray bytes may decode to

CLEARLY = 100  # times the tolerance


def test_the_comparison_passes_on_the_code_as_it_is(deepseek, make_pool):
    assert deepseek.broken_run(make_pool(deepseek)) < deepseek.tolerance


def test_reading_another_layers_rows_is_noticed(deepseek, make_pool, monkeypatch):
    right = PoolSequence.layer
    monkeypatch.setattr(PoolSequence, "layer", lambda self, layer: right(self, (layer + 1) % 3))
    assert deepseek.broken_run(make_pool(deepseek)) > CLEARLY * deepseek.tolerance


def test_reading_the_neighbouring_tokens_row_is_noticed(deepseek, make_pool, monkeypatch):
    def one_row_down(self, layer):
        place = right(self, layer)
        return place._replace(table=np.maximum(place.table - 1, 0))

    right = PoolSequence.layer
    monkeypatch.setattr(PoolSequence, "layer", one_row_down)
    assert deepseek.broken_run(make_pool(deepseek)) > CLEARLY * deepseek.tolerance


def test_a_stale_slot_is_noticed(deepseek, make_pool, monkeypatch):
    right = RequestKv.fetch

    def all_but_the_first_miss(self, layer, topk):
        held = self.slots[layer].copy()
        plan, elapsed_ns = right(self, layer, topk)
        self.slots[layer, plan.victim_slots[:1]] = held[plan.victim_slots[:1]]
        return plan, elapsed_ns

    monkeypatch.setattr(RequestKv, "fetch", all_but_the_first_miss)
    assert deepseek.broken_run(make_pool(deepseek)) > CLEARLY * deepseek.tolerance


def test_the_newest_row_one_slot_off_is_noticed(deepseek, make_pool, monkeypatch):
    def off_by_one(self, layer, plan, row):
        right(self, layer, plan._replace(newest_slot=plan.newest_slot - 1), row)

    right = RequestKv.place_newest
    monkeypatch.setattr(RequestKv, "place_newest", off_by_one)
    assert deepseek.broken_run(make_pool(deepseek)) > CLEARLY * deepseek.tolerance


def test_a_row_that_decode_does_not_write_back_is_noticed(deepseek, make_pool, monkeypatch):
    monkeypatch.setattr(RequestKv, "write_back", lambda self: None)
    assert deepseek.broken_run(make_pool(deepseek)) == float("inf")  # the poison


def test_a_row_that_prefill_drops_is_noticed(deepseek, make_pool, monkeypatch):
    right = PoolSequence.write

    def all_but_the_last(self, layer, first_token, values):
        return right(self, layer, first_token, values[:-1] if len(values) > 1 else values)

    monkeypatch.setattr(PoolSequence, "write", all_but_the_last)
    assert deepseek.broken_run(make_pool(deepseek)) == float("inf")


def test_blocks_published_without_their_indexer_keys_are_noticed(deepseek, make_pool, monkeypatch):
    monkeypatch.setattr(Pool, "write_index_keys", lambda self, blocks, layer, keys: 0)
    pool = make_pool(deepseek)
    with pooled(deepseek.model, pool):
        deepseek.greedy(1)
    assert deepseek.broken_run(pool) > CLEARLY * deepseek.tolerance


def test_two_models_under_one_name_are_noticed(references, make_pool, monkeypatch):
    monkeypatch.setattr("sac_runtime.models.pooled.weights_digest", lambda model: b"all the same")
    first, second = references.values()
    pool = make_pool(first)
    with pooled(first.model, pool):
        first.greedy(1)
    assert second.broken_run(pool) > CLEARLY * second.tolerance

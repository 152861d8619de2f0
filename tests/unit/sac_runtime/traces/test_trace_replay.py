"""Replays beside closed forms, beside the rule by hand, and through stores."""

import numpy as np
import pytest

from emulation.stores.timed import TimedStore
from emulation.timing.clock import VirtualClock
from emulation.timing.path import Transfer, default_path
from emulation.timing.profile import load_profile
from sac_runtime.errors import TraceError
from sac_runtime.fetch.request import FetchConfig, RequestKv
from sac_runtime.memory.backing import Backing
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import KvLayout
from sac_runtime.rows.placement import LayerFirst
from sac_runtime.traces.format import TraceHeader, TraceReader, TraceStep, write_trace
from sac_runtime.traces.replay import PlanOnly, Replay
from sac_runtime.traces.synthetic import SyntheticSpec, generate

SPEC = SyntheticSpec(8192, 256, (0.3, 0.45), turnover=0.002, recent_tokens=8, seed=7)
LAYOUT = KvLayout.bf16()


def plan_only(capacity, spec=SPEC):
    return Replay(spec.header(), [PlanOnly.of(spec.header(), capacity)])


def canary(layer, tokens):
    """A row of each layer and token that no other has."""
    rows = np.zeros((len(tokens), LAYOUT.row_bytes), np.uint8)
    rows.view(np.int64)[:, 0] = tokens
    rows.view(np.int64)[:, 1] = layer
    return rows


PLACEMENT = LayerFirst(num_layers=2, tokens_capacity=8192 + 64)


def request_over(store):
    return RequestKv(
        Backing(store, PLACEMENT), FetchConfig(num_layers=2, top_k=256, capacity=384), 8192, PLACEMENT.tokens_capacity
    )


@pytest.fixture
def store():
    """Holds a canary for each layer and token."""
    with MappedStore.anonymous(LAYOUT, PLACEMENT.num_rows, huge_pages=False) as mapped:
        tokens = np.arange(PLACEMENT.tokens_capacity)
        for layer in range(2):
            mapped.write_rows(PLACEMENT.rows(layer, tokens), canary(layer, tokens))
        yield mapped


def test_a_token_that_left_the_buffer_is_fetched_again():
    header = TraceHeader(num_layers=1, top_k=2, context_tokens=(100,), source="by hand")
    sets = [[1, 2], [3, 4], [1, 101]]  # the second evicts the first's tokens; newest is 102
    steps = [TraceStep(index, ((np.array(tokens),),)) for index, tokens in enumerate(sets)]
    replay = Replay(header, [PlanOnly.of(header, capacity=2)]).run(steps)
    assert (replay.counters[0].misses, replay.counters[0].compulsory) == (6, 5)
    assert replay.counters[0].fetched_lines(LAYOUT) == 6 * 18


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("capacity", [264, 384, 512, 768])
def test_the_misses_of_a_synthetic_trace_are_near_their_closed_form(layer, capacity):
    warm, measured = 50, 150
    replay = plan_only(capacity)
    steps = list(generate(SPEC, warm + measured))
    before = replay.run(steps[:warm]).counters[layer].misses
    misses = (replay.run(steps[warm:]).counters[layer].misses - before) / measured
    # HotBuffer keeps a step's hits longer than its fills, so it may do better than plain LRU, up to 6%.
    assert (
        SPEC.layer(layer).expected_misses(capacity) * 0.94 < misses < SPEC.layer(layer).expected_misses(capacity) * 1.02
    )


def test_misses_fall_by_more_than_half_when_the_buffer_doubles_from_top_k():
    spec = SyntheticSpec.published(8192, top_k=128, num_layers=20)
    steps = list(generate(spec, 60))
    misses = [sum(c.misses for c in plan_only(slots, spec).run(steps).counters) for slots in (128, 256, 512)]
    assert misses[1] < misses[0] / 2 and misses[2] < misses[1] / 2


def test_a_trace_from_a_file_replays_as_the_one_that_was_written(tmp_path):
    write_trace(tmp_path / "a.trace", SPEC.header(), generate(SPEC, 20))
    reader = TraceReader(tmp_path / "a.trace")
    from_file = Replay(reader.header, [PlanOnly.of(reader.header, 384)]).run(reader)
    assert from_file.counters == plan_only(384).run(generate(SPEC, 20)).counters


def test_a_replay_through_a_store_fetches_the_rows_that_the_trace_chose(store):
    with request_over(store) as request:
        replay = Replay(SPEC.header(), [request])
        for step in generate(SPEC, 30):
            replayed = replay.step(step)
            for layer, plan in enumerate(replayed.plans[0]):
                old = step.tokens(layer) < request.length - 1  # the newest row is the model's to place
                fetched = request.chosen_rows(layer, plan)[old]
                assert (fetched == canary(layer, step.tokens(layer)[old])).all()
        assert request.traffic.fetched_bytes == sum(counters.fetched_bytes(LAYOUT) for counters in replay.counters)
    assert replay.counters == plan_only(384).run(generate(SPEC, 30)).counters
    assert min(replay.fetched_ns) > 0


@pytest.mark.parametrize("tier", ["dram-pond-intel", "cxl-switched-400", "rdma-100g"])
def test_a_replay_over_a_tier_takes_what_its_path_takes_for_the_misses(store, tier):
    path = default_path(load_profile(tier))
    with request_over(TimedStore(store, path, VirtualClock())) as request:
        replay = Replay(SPEC.header(), [request])
        plans = [replay.step(step).plans[0] for step in generate(SPEC, 10)]
    for layer in range(2):
        misses = [step[layer].misses for step in plans]
        assert replay.fetched_ns[layer] == sum(path.idle_ns(Transfer(m, m * 18 * 64)) for m in misses)


def test_requests_of_another_length_than_the_trace_has_are_refused():
    with pytest.raises(TraceError, match=r"requests of \(8191,\) tokens, the trace has \(8192,\)"):
        Replay(SPEC.header(), [PlanOnly([], 8191)])

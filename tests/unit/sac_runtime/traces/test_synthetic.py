"""The generator of traces beside its closed forms and the published figures."""

from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest

from sac_runtime.errors import GeometryError
from sac_runtime.traces.synthetic import (
    FIG4_STEPS,
    FIG4_TOUCHED_TOKENS,
    LayerModel,
    SyntheticSpec,
    generate,
    published_touched_tokens,
)

SMALL = SyntheticSpec(8192, 256, (0.3, 0.45), turnover=0.002, recent_tokens=8, seed=7)


def chosen(spec, num_steps, layer):
    return [step.tokens(layer) for step in generate(spec, num_steps)]


def lru_misses(sets, capacity, newest_of):
    """Mean misses per step of a plain LRU: a step uses its entries in random order, the newest has its own slot."""
    order = np.random.default_rng(1)
    resident, misses = OrderedDict(), []
    for index, tokens in enumerate(sets):
        wanted = [token for token in order.permutation(tokens).tolist() if token != newest_of(index)]
        misses.append(sum(token not in resident for token in wanted))
        for token in wanted:
            resident[token] = None
            resident.move_to_end(token)
        while len(resident) > capacity:
            resident.popitem(last=False)
    return np.mean(misses[100:])


def test_every_set_is_a_top_k_of_the_tokens_there_are():
    for step in generate(SMALL, 20):
        for layer in (0, 1):
            tokens = step.tokens(layer)
            assert tokens.shape == (256,)
            assert (np.diff(tokens) > 0).all() and tokens[0] >= 0
            assert tokens[-8:].tolist() == list(range(8192 + step.index - 7, 8192 + step.index + 1))


def test_the_same_seed_gives_the_same_trace_and_another_seed_another():
    other = SyntheticSpec(**{**vars(SMALL), "seed": 8})
    first, again, different = (np.array(chosen(spec, 5, 0)) for spec in (SMALL, SMALL, other))
    assert (first == again).all()
    assert (first != different).any()


@pytest.mark.parametrize("layer", [0, 1])
def test_consecutive_steps_overlap_as_asked(layer):
    sets = chosen(SMALL, 150, layer)
    overlap = np.mean([len(np.intersect1d(a, b)) / 256 for a, b in pairwise(sets)])
    assert overlap == pytest.approx(SMALL.overlaps[layer], abs=0.01)
    assert SMALL.layer(layer).expected_overlap() == pytest.approx(SMALL.overlaps[layer], abs=0.005)


@pytest.mark.parametrize("buffer_slots", [288, 384, 512, 768])
def test_lru_misses_agree_with_ches_approximation(buffer_slots):
    measured = lru_misses(chosen(SMALL, 400, layer=1), buffer_slots, lambda index: 8192 + index)
    assert measured == pytest.approx(SMALL.layer(1).expected_misses(buffer_slots), rel=0.02)


@pytest.mark.parametrize("num_steps", [1, 30, 400])
def test_the_touched_tokens_agree_with_the_closed_form(num_steps):
    touched = len(np.unique(np.concatenate(chosen(SMALL, num_steps, layer=0))))
    assert touched == pytest.approx(SMALL.layer(0).expected_touched(num_steps), rel=0.02)


@pytest.mark.parametrize("context_tokens", sorted(FIG4_TOUCHED_TOKENS))
def test_the_published_preset_touches_what_fig_4_says(context_tokens):
    spec = SyntheticSpec.published(context_tokens)
    touched = np.mean([spec.layer(layer).expected_touched(FIG4_STEPS) for layer in range(61)])
    assert touched == pytest.approx(FIG4_TOUCHED_TOKENS[context_tokens], rel=0.02)


@pytest.mark.parametrize("context_tokens", sorted(FIG4_TOUCHED_TOKENS))
def test_misses_fall_by_more_than_half_when_the_buffer_doubles_from_top_k(context_tokens):
    spec = SyntheticSpec.published(context_tokens)
    mean = [np.mean([spec.layer(layer).expected_misses(slots) for layer in range(61)]) for slots in (2048, 4096, 8192)]
    assert mean[1] < mean[0] / 2 and mean[2] < mean[1] / 2


def test_misses_vary_between_layers_by_a_factor_of_ten_at_6144_slots():
    spec = SyntheticSpec.published(131072)
    misses = [spec.layer(layer).expected_misses(6144) for layer in range(61)]
    assert max(misses) > 10 * min(misses)


def test_a_long_trace_touches_fig_4_in_the_run_too():
    spec = SyntheticSpec.published(131072, top_k=256, num_layers=1)
    touched = len(np.unique(np.concatenate(chosen(spec, 300, layer=0))))
    assert touched == pytest.approx(spec.layer(0).expected_touched(300), rel=0.02)


def test_between_the_points_of_fig_4_the_footprint_grows_and_top_k_scales_both_axes():
    assert FIG4_TOUCHED_TOKENS[16384] < published_touched_tokens(24576) < FIG4_TOUCHED_TOKENS[32768]
    assert published_touched_tokens(8192, top_k=1024) == pytest.approx(FIG4_TOUCHED_TOKENS[16384] / 2)


@pytest.mark.parametrize(
    "change",
    [{"overlap": 0.8}, {"overlap": 0.05}, {"turnover": 0.2}, {"context_tokens": 256}, {"recent_tokens": 0}],
    ids=str,
)
def test_a_layer_that_cannot_be_is_refused(change):
    fields = {"context_tokens": 8192, "top_k": 256, "overlap": 0.4, "turnover": 0.0, "recent_tokens": 8}
    with pytest.raises(GeometryError, match="synthetic layer"):
        LayerModel(**{**fields, **change})


def test_the_published_preset_refuses_a_context_too_short_for_it():
    with pytest.raises(GeometryError, match="at least 4 x top_k=2048"):
        SyntheticSpec.published(8000)

"""The closed form of hot-buffer misses beside the runtime's own buffer on traces of the same law."""

from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest

from emulation.errors import InputError
from emulation.timing.misses import MissModel, fit_exponent, footprint_tokens, measure_misses, power_law_steps

NUM_STEPS = 600


def steps_of(exponent, context_tokens=16384, top_k=256, num_steps=NUM_STEPS):
    return list(power_law_steps(context_tokens, top_k, exponent, num_steps, seed=1))


@pytest.mark.parametrize("exponent", [0.26, 0.34, 0.38])
@pytest.mark.parametrize(("times_top_k", "tolerance"), [(1, 0.02), (1.5, 0.05), (2, 0.03), (3, 0.03), (4, 0.09)])
def test_closed_form_meets_the_runtimes_buffer(exponent, times_top_k, tolerance):
    slots = round(256 * times_top_k)
    measured = measure_misses(steps_of(exponent), slots, 256)
    model = MissModel(16384, 256, exponent)
    full = measured[np.searchsorted(measured.cumsum(), slots) + 20 :]
    assert model.misses_per_step(slots) == pytest.approx(full.mean(), rel=tolerance)
    assert model.total_misses(slots, NUM_STEPS) == pytest.approx(measured.sum(), rel=tolerance)


@pytest.mark.parametrize(("context_tokens", "tolerance"), [(32768, 0.02), (131072, 0.02)])
def test_closed_form_meets_the_runtimes_buffer_at_full_size(context_tokens, tolerance):
    model = MissModel.for_context(context_tokens)
    steps = steps_of(model.exponent, context_tokens, 2048, 160)
    assert model.total_misses(6144, 160) == pytest.approx(measure_misses(steps, 6144, 2048).sum(), rel=tolerance)


def test_a_buffer_no_larger_than_the_top_k_misses_what_consecutive_steps_do_not_share():
    model = MissModel.for_context(131072)
    assert model.misses_per_step(2048) == pytest.approx(2048 * (1 - model.overlap))


def test_a_buffer_that_evicts_the_latest_use_is_noticed():
    steps, slots, resident, misses = steps_of(0.34), 768, OrderedDict(), 0
    for step in steps:
        chosen = set(step.tolist())
        missed = chosen - resident.keys()
        misses += len(missed)
        evictable = [token for token in reversed(resident) if token not in chosen]
        for token in evictable[: max(0, len(resident) + len(missed) - slots)]:
            del resident[token]
        for token in chosen:
            resident[token] = None
            resident.move_to_end(token)
    assert misses != pytest.approx(MissModel(16384, 256, 0.34).total_misses(slots, NUM_STEPS), rel=0.16)


def test_generated_footprint_grows_as_the_power_law_and_its_exponent_is_found_again():
    steps = steps_of(0.34)
    touched = set().union(*(step.tolist() for step in steps))
    assert len(touched) == pytest.approx(MissModel(16384, 256, 0.34).touched(NUM_STEPS), rel=0.03)
    assert fit_exponent(steps) == pytest.approx(0.34, abs=0.01)


def test_consecutive_steps_share_what_the_model_says():
    overlaps = [len(np.intersect1d(a, b)) / 256 for a, b in pairwise(steps_of(0.34))]
    assert np.mean(overlaps) == pytest.approx(MissModel(16384, 256, 0.34).overlap, abs=0.02)


def test_overlap_sets_the_exponent():
    assert MissModel.for_context(65536, overlap=0.45).overlap == pytest.approx(0.45)


def test_footprints_are_those_of_figure_4():
    published = {16384: 12238, 32768: 16934, 65536: 21203, 131072: 28034}
    for context_tokens, tokens in published.items():
        assert footprint_tokens(context_tokens) == pytest.approx(tokens, rel=0.05)


def test_misses_fall_by_more_than_half_when_the_buffer_doubles():
    for context_tokens in (16384, 131072):
        model = MissModel.for_context(context_tokens)
        assert model.misses_per_step(8192) < model.misses_per_step(4096) / 2


def test_misses_grow_with_context_and_shrink_with_overlap():
    by_context = [MissModel.for_context(context).misses_per_step(6144) for context in (8192, 16384, 65536, 131072)]
    by_overlap = [MissModel.for_context(65536, overlap=overlap).misses_per_step(6144) for overlap in (0.3, 0.5, 0.8)]
    assert by_context == sorted(by_context)
    assert by_overlap == sorted(by_overlap, reverse=True)


def test_a_context_that_fits_the_buffer_misses_each_token_once():
    model = MissModel.for_context(6144)
    assert model.misses_per_step(6144) == 0
    assert model.total_misses(6144, 10**6) <= 6144
    assert MissModel.for_context(6145).misses_per_step(6144) > 0


def test_until_the_buffer_is_full_every_touched_token_is_a_miss():
    model = MissModel.for_context(131072)
    filling = int((6144 / 2048) ** (1 / model.exponent))
    assert model.total_misses(6144, filling) == model.touched(filling)
    assert model.total_misses(6144, filling + 50) > model.touched(filling + 50)


@pytest.mark.parametrize("context_tokens", [1, 2, 100, 2048, 2049, 6200])
def test_short_contexts_have_finite_misses(context_tokens):
    model = MissModel.for_context(context_tokens)
    assert 0 <= model.misses_per_step(6144) <= context_tokens
    assert 0 < model.total_misses(6144, 100) <= 100 * context_tokens


def test_a_trace_of_one_step_is_refused():
    with pytest.raises(InputError, match=r"1 step\(s\); at least 2"):
        fit_exponent([np.arange(4)])

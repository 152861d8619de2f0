"""The closed form of hot-buffer misses beside the runtime's own buffer on traces of the same law."""

from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest

from emulation.errors import InputError
from emulation.timing import misses
from emulation.timing.misses import FootprintLaw, MeasuredLaw, ReuseLaw, footprint_tokens
from sac_runtime.traces.format import TraceHeader, TraceReader, TraceStep, write_trace
from sac_runtime.traces.synthetic import SyntheticSpec, generate
from tests.support.power_law import fit_exponent, measure_misses, power_law_steps

NUM_STEPS = 600


def steps_of(exponent, context_tokens=16384, top_k=256, num_steps=NUM_STEPS):
    return list(power_law_steps(context_tokens, top_k, exponent, num_steps, seed=1))


@pytest.mark.parametrize("exponent", [0.26, 0.34, 0.38])
@pytest.mark.parametrize(("times_top_k", "tolerance"), [(1, 0.02), (1.5, 0.05), (2, 0.03), (3, 0.03), (4, 0.09)])
def test_closed_form_meets_the_runtimes_buffer(exponent, times_top_k, tolerance):
    slots = round(256 * times_top_k)
    measured = measure_misses(steps_of(exponent), slots, 256)
    model = FootprintLaw(16384, 256, exponent)
    full = measured[np.searchsorted(measured.cumsum(), slots) + 20 :]
    assert model.misses_per_step(slots) == pytest.approx(full.mean(), rel=tolerance)
    assert model.total_misses(slots, NUM_STEPS) == pytest.approx(measured.sum(), rel=tolerance)


@pytest.mark.parametrize(("context_tokens", "tolerance"), [(32768, 0.02), (131072, 0.02)])
def test_closed_form_meets_the_runtimes_buffer_at_full_size(context_tokens, tolerance):
    model = FootprintLaw.for_context(context_tokens)
    steps = steps_of(model.exponent, context_tokens, 2048, 160)
    assert model.total_misses(6144, 160) == pytest.approx(measure_misses(steps, 6144, 2048).sum(), rel=tolerance)


def test_a_buffer_no_larger_than_the_top_k_misses_what_consecutive_steps_do_not_share():
    model = FootprintLaw.for_context(131072)
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
    assert misses != pytest.approx(FootprintLaw(16384, 256, 0.34).total_misses(slots, NUM_STEPS), rel=0.16)


def test_generated_footprint_grows_as_the_power_law_and_its_exponent_is_found_again():
    steps = steps_of(0.34)
    touched = set().union(*(step.tolist() for step in steps))
    assert len(touched) == pytest.approx(FootprintLaw(16384, 256, 0.34).touched(NUM_STEPS), rel=0.03)
    assert fit_exponent(steps) == pytest.approx(0.34, abs=0.01)


def test_consecutive_steps_share_what_the_model_says():
    overlaps = [len(np.intersect1d(a, b)) / 256 for a, b in pairwise(steps_of(0.34))]
    assert np.mean(overlaps) == pytest.approx(FootprintLaw(16384, 256, 0.34).overlap, abs=0.02)


def test_overlap_sets_the_exponent():
    assert FootprintLaw.for_context(65536, overlap=0.45).overlap == pytest.approx(0.45)


def test_footprints_are_those_of_figure_4():
    published = {16384: 12238, 32768: 16934, 65536: 21203, 131072: 28034}
    for context_tokens, tokens in published.items():
        assert footprint_tokens(context_tokens) == pytest.approx(tokens, rel=0.05)


def test_misses_fall_by_more_than_half_when_the_buffer_doubles():
    for context_tokens in (16384, 131072):
        model = FootprintLaw.for_context(context_tokens)
        assert model.misses_per_step(8192) < model.misses_per_step(4096) / 2


def test_misses_grow_with_context_and_shrink_with_overlap():
    by_context = [FootprintLaw.for_context(context).misses_per_step(6144) for context in (8192, 16384, 65536, 131072)]
    by_overlap = [FootprintLaw.for_context(65536, overlap=overlap).misses_per_step(6144) for overlap in (0.3, 0.5, 0.8)]
    assert by_context == sorted(by_context)
    assert by_overlap == sorted(by_overlap, reverse=True)


def test_a_context_that_fits_the_buffer_misses_each_token_once():
    model = FootprintLaw.for_context(6144)
    assert model.misses_per_step(6144) == 0
    assert model.total_misses(6144, 10**6) <= 6144
    assert FootprintLaw.for_context(6145).misses_per_step(6144) > 0


def test_until_the_buffer_is_full_every_touched_token_is_a_miss():
    model = FootprintLaw.for_context(131072)
    filling = int((6144 / 2048) ** (1 / model.exponent))
    assert model.total_misses(6144, filling) == model.touched(filling)
    assert model.total_misses(6144, filling + 50) > model.touched(filling + 50)


@pytest.mark.parametrize("context_tokens", [1, 2, 100, 2048, 2049, 6200])
def test_short_contexts_have_finite_misses(context_tokens):
    model = FootprintLaw.for_context(context_tokens)
    assert 0 <= model.misses_per_step(6144) <= context_tokens
    assert 0 < model.total_misses(6144, 100) <= 100 * context_tokens


CONTEXTS = (16384, 32768, 65536, 131072)


def test_the_laws_name_themselves_and_say_of_one_quantity_what_the_module_says_of_them():
    footprint = [FootprintLaw.for_context(context) for context in CONTEXTS]
    reuse = [ReuseLaw(SyntheticSpec.published(context)) for context in CONTEXTS]
    assert [round(law.misses_per_step(6144)) for law in footprint] == [22, 45, 79, 124]
    assert [round(law.misses_per_step(6144)) for law in reuse] == [130, 136, 140, 146]
    told = " ".join(misses.__doc__.split())
    assert "22, 45, 79, 124 misses per layer" in told
    assert "130, 136, 140, 146, mean of 61 layers" in told
    assert {law.name for law in (footprint[0], reuse[0], MeasuredLaw(1.0))} == {"footprint", "reuse", "measured"}
    assert "Fig 4" in footprint[0].source
    assert FootprintLaw.for_context(65536, overlap=0.5).source == "overlap of 0.5, as given"


def test_the_reuse_law_meets_the_runtimes_buffer_on_the_choices_that_a_run_replays():
    spec = SyntheticSpec.published(16384, top_k=1024, num_layers=3)
    steps, law, slots = list(generate(spec, 120)), ReuseLaw(spec), 3072
    measured = np.mean(
        [measure_misses((step.tokens(layer) for step in steps), slots, 1024) for layer in range(3)], axis=0
    )
    assert measured[60:].mean() == pytest.approx(law.misses_per_step(slots), rel=0.06)
    assert measured.sum() == pytest.approx(law.total_misses(slots, 120), rel=0.06)


def test_the_reuse_law_fills_its_buffer_first_and_misses_nothing_of_a_context_that_fits():
    law = ReuseLaw(SyntheticSpec.published(16384, num_layers=4))
    assert law.total_misses(6144, 0) == 0
    assert law.total_misses(6144, 1) == pytest.approx(2048, rel=0.01)
    totals = [law.total_misses(6144, steps) for steps in (1, 2, 4, 8, 16, 64, 256)]
    assert totals == sorted(totals)
    assert law.misses_per_step(16384) == 0
    assert law.total_misses(16384, 10**6) == 16384


def recorded(tmp_path, steps, context_tokens=16384, top_k=256):
    header = TraceHeader(1, top_k, (context_tokens,), "test")
    write_trace(tmp_path / "one.trace", header, (TraceStep(number, ((step,),)) for number, step in enumerate(steps)))
    return TraceReader(tmp_path / "one.trace")


def test_a_measured_law_is_the_mean_of_a_traces_second_half_at_the_models_scale(tmp_path):
    steps = steps_of(0.34, num_steps=80)
    law = MeasuredLaw.of_trace(recorded(tmp_path, steps), 6144)
    replayed = measure_misses(steps, 768, 256)[40:].mean() * 8
    assert law.misses_per_step(6144) == pytest.approx(replayed, rel=0.01)
    assert law.total_misses(6144, 10) == 10 * law.measured


def test_a_trace_of_one_step_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"1 step\(s\); at least 2"):
        MeasuredLaw.of_trace(recorded(tmp_path, steps_of(0.34, num_steps=1)), 6144)

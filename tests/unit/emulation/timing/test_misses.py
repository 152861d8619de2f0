"""The closed form of hot-buffer misses beside the runtime's own buffer on traces of the same law."""

from itertools import pairwise

import numpy as np
import pytest

from emulation.errors import InputError
from emulation.timing import misses
from emulation.timing.misses import BufferLaw, MeasuredLaw, ReuseLaw, footprint_tokens, layer_shares
from sac_runtime.traces.format import TraceHeader, TraceReader, TraceStep, write_trace
from sac_runtime.traces.synthetic import SyntheticSpec, generate
from tests.support.power_law import fit_exponent, measure_misses, power_law_steps

NUM_STEPS = 600


def steps_of(exponent, context_tokens=16384, top_k=256, num_steps=NUM_STEPS):
    return list(power_law_steps(context_tokens, top_k, exponent, num_steps, seed=1))


def stack_steps(law, num_steps, seed=1):
    """Choices by depth in the LRU stack: of each step's k, as many come from below depth B as `law` says that B slots miss;
    those that no buffer has come from anywhere below all that is touched."""
    rng, chosen, touched = np.random.default_rng(seed), law.chosen, round(law.touched_tokens)
    deeper = np.array([law.misses_per_step(depth) for depth in range(chosen, touched)])
    stack = rng.permutation(law.context_tokens)
    for _ in range(num_steps):
        draws = deeper[0] * (np.arange(round(deeper[0])) + rng.random(round(deeper[0]))) / round(deeper[0])
        depths = chosen + np.searchsorted(-deeper, -draws)
        fresh = depths >= touched
        depths[fresh] = rng.choice(np.arange(touched, law.context_tokens), fresh.sum(), replace=False)
        below = np.unique(depths)
        places = np.concatenate([rng.permutation(chosen)[: chosen - len(below)], below])
        yield stack[places]
        stack = np.concatenate([stack[places], np.delete(stack, places)])


@pytest.mark.parametrize("times_top_k", [2, 3, 4])
def test_choices_of_the_laws_stack_depths_miss_in_the_runtimes_buffer_what_it_says(times_top_k):
    """At an eighth of the sizes of a 32K context."""
    law = BufferLaw(4096, 256, footprint_tokens(32768) / 8)
    measured = measure_misses(list(stack_steps(law, 400)), times_top_k * 256, 256)
    assert measured[200:].mean() == pytest.approx(law.misses_per_step(times_top_k * 256), rel=0.05)


@pytest.mark.parametrize("context_tokens", [32768, 131072, 202752])
def test_misses_have_the_published_slope_in_the_buffers_size(context_tokens):
    """30.0, 13.4 and 6.7% of k at k, 2k and 4k slots."""
    law = BufferLaw.for_context(context_tokens)
    at = [law.misses_per_step(slots) for slots in (2048, 4096, 8192)]
    assert at[0] / at[2] == pytest.approx(30.0 / 6.7)
    assert at[0] / at[1] == pytest.approx(30.0 / 13.4, rel=0.06)


def test_at_the_context_of_the_model_that_was_measured_misses_are_those_published():
    law = BufferLaw.for_context(202_752)
    shares = [law.misses_per_step(slots) / 2048 for slots in (2048, 4096, 8192)]
    assert shares == pytest.approx([0.300, 0.134, 0.067], rel=0.15)


@pytest.mark.parametrize("context_tokens", [16384, 131072])
def test_a_buffer_of_all_that_is_touched_has_compulsory_misses_alone(context_tokens):
    law, touched = BufferLaw.for_context(context_tokens), footprint_tokens(context_tokens)
    assert law.misses_per_step(round(touched)) == pytest.approx(touched / 1024, rel=1e-3)
    assert law.misses_per_step(round(1.2 * touched)) == pytest.approx(touched / 1024)
    assert law.total_misses(round(touched), 1024) == pytest.approx(touched, rel=1e-3)


def test_layers_differ_as_published_and_their_mean_is_the_laws():
    shares = layer_shares(61)
    assert sum(shares) / 61 == pytest.approx(1)
    assert shares[-1] / shares[0] == pytest.approx(600 / 17, rel=1e-6)


def test_a_buffer_no_larger_than_the_top_k_misses_what_consecutive_steps_do_not_share():
    model = BufferLaw.for_context(131072)
    assert model.misses_per_step(2048) == pytest.approx(2048 * (1 - model.overlap))


def test_generated_footprint_grows_as_the_power_law_and_its_exponent_is_found_again():
    steps = steps_of(0.34)
    touched = set().union(*(step.tolist() for step in steps))
    assert len(touched) == pytest.approx(256 * NUM_STEPS**0.34, rel=0.03)
    assert fit_exponent(steps) == pytest.approx(0.34, abs=0.01)


def test_consecutive_steps_share_what_the_power_law_says():
    overlaps = [len(np.intersect1d(a, b)) / 256 for a, b in pairwise(steps_of(0.34))]
    assert np.mean(overlaps) == pytest.approx(2 - 2**0.34, abs=0.02)


def test_a_given_overlap_is_that_of_the_law():
    assert BufferLaw.for_context(65536, overlap=0.45).overlap == pytest.approx(0.45)
    assert BufferLaw.for_context(65536, overlap=0.45).misses_per_step(2048) == pytest.approx(0.55 * 2048)


def test_footprints_are_those_of_figure_4():
    published = {16384: 12238, 32768: 16934, 65536: 21203, 131072: 28034}
    for context_tokens, tokens in published.items():
        assert footprint_tokens(context_tokens) == pytest.approx(tokens, rel=0.05)


def test_misses_fall_by_more_than_half_when_the_buffer_doubles():
    for context_tokens in (16384, 131072):
        model = BufferLaw.for_context(context_tokens)
        assert model.misses_per_step(8192) < model.misses_per_step(4096) / 2


def test_misses_grow_with_context_and_shrink_with_overlap():
    by_context = [BufferLaw.for_context(context).misses_per_step(6144) for context in (8192, 16384, 65536, 131072)]
    by_overlap = [BufferLaw.for_context(65536, overlap=overlap).misses_per_step(6144) for overlap in (0.3, 0.5, 0.8)]
    assert by_context == sorted(by_context)
    assert by_overlap == sorted(by_overlap, reverse=True)


def test_a_context_that_fits_the_buffer_misses_each_token_once():
    model = BufferLaw.for_context(6144)
    assert model.misses_per_step(6144) == 0
    assert model.total_misses(6144, 10**6) <= 6144
    assert BufferLaw.for_context(6145).misses_per_step(6144) > 0


def test_until_the_buffer_is_full_every_touched_token_is_a_miss():
    model = BufferLaw.for_context(131072)
    filling = int(model.filling_steps(6144))
    assert model.total_misses(6144, filling) == model.touched(filling)
    assert model.total_misses(6144, filling + 50) > model.touched(filling + 50)


@pytest.mark.parametrize("context_tokens", [1, 2, 100, 2048, 2049, 6200])
def test_short_contexts_have_finite_misses(context_tokens):
    model = BufferLaw.for_context(context_tokens)
    assert 0 <= model.misses_per_step(6144) <= context_tokens
    assert 0 < model.total_misses(6144, 100) <= 100 * context_tokens


CONTEXTS = (16384, 32768, 65536, 131072)


def test_the_laws_name_themselves_and_say_of_one_quantity_what_the_module_says_of_them():
    laws = [BufferLaw.for_context(context) for context in CONTEXTS]
    reuse = ReuseLaw(SyntheticSpec.published(16384, num_layers=3))
    assert [round(law.misses_per_step(6144)) for law in laws] == [25, 45, 79, 141]
    told = " ".join(misses.__doc__.split())
    assert "25, 45, 79 and 141 misses at 16K to 128K" in told
    assert {law.name for law in (laws[0], reuse, MeasuredLaw(1.0))} == {"buffer", "reuse", "measured"}
    assert "Fig 4" in laws[0].source
    assert BufferLaw.for_context(65536, overlap=0.5).source == "overlap of 0.5, as given"


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

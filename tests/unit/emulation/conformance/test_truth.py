"""The truth of a context: what it chooses, what it poisons, and which shapes of a job are refused."""

from dataclasses import replace

import numpy as np
import pytest

from emulation.conformance.truth import Context
from emulation.errors import InputError
from sac_runtime.traces.format import write_trace
from sac_runtime.traces.synthetic import SyntheticSpec, generate
from tests.support.exchanges import SHAPE


def test_scores_choose_exactly_the_top_k_and_are_in_no_order():
    context = Context(SHAPE, 0)
    scores = context.scores(1, 2)
    assert np.array_equal(np.sort(np.argsort(-scores, kind="stable")[:128]), context.topk[1].tokens(2))
    assert abs(np.corrcoef(np.arange(scores.size), scores)[0, 1]) < 0.2


def test_rows_that_no_step_chooses_are_poison_and_the_others_are_not():
    context = Context(SHAPE, 0)
    poisoned = (context.rows(0) == 0xFF).all(axis=1)
    chosen = {token for step in context.topk for token in step.tokens(0).tolist()}
    assert set(np.flatnonzero(~poisoned).tolist()) == chosen | {2000, 2001, 2002}


def test_a_recorded_trace_takes_the_place_of_generated_choices_and_must_fit(tmp_path):
    spec = SyntheticSpec.published(SHAPE.context_tokens, SHAPE.top_k, SHAPE.num_layers, seed=99)
    write_trace(tmp_path / "trace", spec.header(), generate(spec, SHAPE.num_steps))
    context = Context(replace(SHAPE, trace=tmp_path / "trace"), 0)
    assert np.array_equal(context.topk[2].tokens(1), list(generate(spec, 3))[2].tokens(1))
    with pytest.raises(InputError, match="holds 2000 tokens, top-k 128, 3 layers; asked for are 2000, 64, 3"):
        Context(replace(SHAPE, trace=tmp_path / "trace", top_k=64), 0).topk  # noqa: B018


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"hot_buffer": 100}, "^job: hot_buffer=100 must be at least top_k=128: a step needs all of it$"),
        ({"top_k": 2000}, "^job: top_k=2000 must be below context_tokens=2000, or nothing is sparse$"),
        ({"num_layers": 0}, "^job: num_layers=0 must be at least 1$"),
        ({"seed": -1}, "^job: seed=-1 must be at least 0$"),
        ({"rows": "int4"}, "^job: rows='int4' must be one of fp8, bf16$"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_by_owner_and_field(change, problem):
    with pytest.raises(InputError, match=problem):
        replace(SHAPE, **change)

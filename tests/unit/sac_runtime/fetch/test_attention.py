"""Absorbed sparse attention against the plain form and the dense masked oracle."""

import numpy as np
import pytest

from emulation.conformance.oracle import dense_masked_attention
from sac_runtime.fetch.attention import (
    absorb_queries,
    expand_values,
    softmax_scale,
    sparse_attention,
)

HEADS, NOPE, ROPE, LATENT, VALUE, TOKENS = 6, 128, 64, 512, 128, 200


@pytest.fixture
def drawn():
    random = np.random.default_rng(0)

    def normal(*shape, scale=1.0):
        return (scale * random.standard_normal(shape)).astype(np.float32)

    return {
        "q_nope": normal(HEADS, NOPE),
        "q_rope": normal(HEADS, ROPE),
        "w_uk": normal(HEADS, NOPE, LATENT, scale=LATENT**-0.5),
        "w_uv": normal(HEADS, VALUE, LATENT, scale=LATENT**-0.5),
        "latent": normal(TOKENS, LATENT),
        "rope": normal(TOKENS, ROPE),
        "chosen": random.permutation(TOKENS)[:50],
    }


def dense_attention(drawn, q_latent, rows, scale):
    query = np.hstack([q_latent, drawn["q_rope"]])
    return dense_masked_attention(query, np.hstack([drawn["latent"], drawn["rope"]]), rows, scale)


def test_the_softmax_scale_of_deepseek_v32():
    assert softmax_scale() == pytest.approx(0.13523377886, rel=1e-9)


def test_the_absorbed_form_equals_keys_and_values_written_out(drawn):
    rows, scale = drawn["chosen"], softmax_scale()
    q_latent = absorb_queries(drawn["q_nope"], drawn["w_uk"])
    output = sparse_attention(q_latent, drawn["q_rope"], drawn["latent"][rows], drawn["rope"][rows], scale)
    absorbed = expand_values(output, drawn["w_uv"])
    for head in range(HEADS):
        keys = drawn["latent"][rows].astype(np.float64) @ drawn["w_uk"][head].T.astype(np.float64)
        values = drawn["latent"][rows].astype(np.float64) @ drawn["w_uv"][head].T.astype(np.float64)
        logits = (keys @ drawn["q_nope"][head] + drawn["rope"][rows].astype(np.float64) @ drawn["q_rope"][head]) * scale
        odds = np.exp(logits - logits.max())
        np.testing.assert_allclose(absorbed[head], odds @ values / odds.sum(), rtol=1e-3, atol=1e-5)


def test_gathered_entries_give_what_the_dense_masked_oracle_gives(drawn):
    rows, scale = drawn["chosen"], softmax_scale()
    q_latent = absorb_queries(drawn["q_nope"], drawn["w_uk"])
    output = sparse_attention(q_latent, drawn["q_rope"], drawn["latent"][rows], drawn["rope"][rows], scale)
    dense = dense_attention(drawn, q_latent, rows, scale)
    np.testing.assert_allclose(output, dense, rtol=1e-4, atol=1e-6)


def test_the_reference_notices_one_entry_exchanged_for_another(drawn):
    rows = drawn["chosen"].copy()
    q_latent = absorb_queries(drawn["q_nope"], drawn["w_uk"])
    right = dense_attention(drawn, q_latent, rows, softmax_scale())
    strongest = int(np.argmax(drawn["latent"][rows] @ q_latent[0] + drawn["rope"][rows] @ drawn["q_rope"][0]))
    rows[strongest] = next(iter(set(range(TOKENS)) - set(rows.tolist())))
    wrong = sparse_attention(q_latent, drawn["q_rope"], drawn["latent"][rows], drawn["rope"][rows], softmax_scale())
    assert not np.allclose(wrong, right, rtol=1e-3, atol=1e-5)


def test_a_poisoned_row_shows_in_every_head(drawn):
    latent = drawn["latent"][:5].copy()
    latent[3] = np.nan
    q_latent = absorb_queries(drawn["q_nope"], drawn["w_uk"])
    assert np.isnan(sparse_attention(q_latent, drawn["q_rope"], latent, drawn["rope"][:5], 1.0)).all()

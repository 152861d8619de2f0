"""The one dense oracle, beside its definition written out token by token in fp64."""

import numpy as np
import pytest

from emulation.conformance.oracle import LATENT, ROPE, SOFTMAX_SCALE, decode, dense_masked_attention
from sac_runtime.fetch.attention import softmax_scale
from sac_runtime.rows.layout import KvLayout
from sac_runtime.rows.quantise import pack_rows, unpack_rows

RANDOM = np.random.default_rng(5)
QUERY = RANDOM.standard_normal((3, LATENT + ROPE)).astype(np.float32)
VALUES = RANDOM.standard_normal((40, LATENT + ROPE)).astype(np.float32)
CHOSEN = np.array([3, 17, 4, 39])


def written_out(query, values, chosen, scale):
    output = []
    for head in query.astype(np.float64):
        logits = [float(head @ values[token].astype(np.float64)) * scale for token in chosen]
        odds = np.exp(np.array(logits) - max(logits))
        output.append(sum(odd * values[token, :LATENT] for odd, token in zip(odds, chosen, strict=True)) / odds.sum())
    return np.array(output)


@pytest.mark.parametrize("scale", [SOFTMAX_SCALE, 0.01, 1.0])
def test_the_dense_attention_is_the_softmax_over_the_chosen_alone(scale):
    expected = written_out(QUERY, VALUES, CHOSEN, scale)
    np.testing.assert_allclose(dense_masked_attention(QUERY, VALUES, CHOSEN, scale), expected, rtol=1e-4, atol=1e-5)


def test_rows_that_are_not_chosen_may_hold_nan_and_one_that_is_shows_it():
    poisoned = VALUES.copy()
    poisoned[np.setdiff1d(np.arange(40), CHOSEN)] = np.nan
    right = dense_masked_attention(QUERY, VALUES, CHOSEN)
    assert np.array_equal(dense_masked_attention(QUERY, poisoned, CHOSEN), right)
    poisoned[17] = np.nan
    assert np.isnan(dense_masked_attention(QUERY, poisoned, CHOSEN)).all()


def test_one_entry_exchanged_for_another_is_noticed():
    right, wrong = (dense_masked_attention(QUERY, VALUES, chosen) for chosen in (CHOSEN, np.array([3, 17, 4, 38])))
    assert np.abs(right - wrong).max() > 0.1


@pytest.mark.parametrize("name", ["fp8", "bf16", "fp32"])
def test_the_oracle_and_the_runtime_read_one_row_alike_by_code_of_their_own(name):
    layout = getattr(KvLayout, name)()
    rows = pack_rows(layout, VALUES[:, :LATENT], VALUES[:, LATENT:])
    assert np.array_equal(decode(rows, name), np.hstack(unpack_rows(layout, rows)))


def test_the_oracles_scale_is_the_models():
    assert pytest.approx(softmax_scale(), rel=1e-15) == SOFTMAX_SCALE

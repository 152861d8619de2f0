"""The indexer against a torch reference written here on its own, and against Hugging Face's model."""

import numpy as np
import pytest

from sac_runtime.errors import GeometryError
from sac_runtime.fetch import indexer
from sac_runtime.fetch.indexer import IndexerWeights, Precision
from sac_runtime.fetch.topk import top_k
from sac_runtime.rows.layout import KvLayout

torch = pytest.importorskip("torch")

HEADS, WIDTH, ROPE, HIDDEN, Q_LORA, TOKENS = 64, 128, 64, 256, 96, 300


@pytest.fixture(scope="module")
def inputs():
    random = np.random.default_rng(0)

    def normal(*shape, scale=1.0):
        return (scale * random.standard_normal(shape)).astype(np.float32)

    weights = IndexerWeights(
        wq_b=normal(HEADS * WIDTH, Q_LORA, scale=Q_LORA**-0.5),
        wk=normal(WIDTH, HIDDEN, scale=HIDDEN**-0.5),
        k_norm_weight=1 + normal(WIDTH, scale=0.2),
        k_norm_bias=normal(WIDTH, scale=0.2),
        w_proj=normal(HEADS, HIDDEN, scale=HIDDEN**-0.5),
    )
    angles = np.outer(np.arange(TOKENS), 10000.0 ** (-np.arange(0, ROPE, 2) / ROPE))
    return (
        weights,
        normal(TOKENS, HIDDEN),
        normal(TOKENS, Q_LORA),
        np.float32(np.cos(angles)),
        np.float32(np.sin(angles)),
    )


def all_scores(inputs, precision):
    weights, hidden, q_latent, cos, sin = inputs
    queries = indexer.index_queries(weights, hidden, q_latent, cos, sin, precision)
    keys = indexer.index_keys(weights, hidden, cos, sin, precision)
    return np.stack([indexer.score(queries, token, keys) for token in range(TOKENS)])


def torch_scores(inputs, precision):
    """As dsa.md states it, token by token in torch's own dtypes; (S, T)."""
    weights, *arrays = inputs
    hidden, q_latent, cos, sin = (torch.from_numpy(each) for each in arrays)
    dtype = torch.float32 if precision is Precision.FP32 else torch.bfloat16
    w = {
        name: torch.from_numpy(getattr(weights, name))
        for name in ("wq_b", "wk", "k_norm_weight", "k_norm_bias", "w_proj")
    }
    rotation = torch.ones(1, 1)
    for _ in range(7):
        rotation = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), rotation)

    def rope(x, heads):
        c, s = (each.unsqueeze(1) if heads else each for each in (torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)))
        turned, kept = x[..., :ROPE].float(), x[..., ROPE:]
        half = torch.cat([-turned[..., ROPE // 2 :], turned[..., : ROPE // 2]], -1)
        return torch.cat([(turned * c + half * s).to(dtype), kept], -1)

    def quantise(x):
        if precision is not Precision.FP8:
            return x.float(), torch.ones(x.shape[:-1])
        amax = x.float().abs().amax(-1).clamp(min=1e-4)
        scale = 2.0 ** torch.ceil(torch.log2(amax / 448.0))
        return (x.float() / scale[..., None]).to(torch.float8_e4m3fn).float(), scale

    q = (q_latent @ w["wq_b"].T).to(dtype).view(TOKENS, HEADS, WIDTH)
    k = (hidden @ w["wk"].T).to(dtype)
    k = torch.nn.functional.layer_norm(k.float(), (WIDTH,), w["k_norm_weight"], w["k_norm_bias"], 1e-6).to(dtype)
    q, q_scale = quantise((rope(q, True).float() @ rotation * WIDTH**-0.5).to(dtype))
    k, k_scale = quantise((rope(k, False).float() @ rotation * WIDTH**-0.5).to(dtype))
    head_weights = (hidden @ w["w_proj"].T) * HEADS**-0.5 * q_scale * WIDTH**-0.5
    similarity = torch.relu(torch.einsum("shw,tw->sht", q, k))
    return (torch.einsum("sh,sht->st", head_weights, similarity) * k_scale).numpy()


@pytest.mark.parametrize("precision", Precision)
def test_scores_equal_the_torch_references_at_the_same_precision(inputs, precision):
    ours, reference = all_scores(inputs, precision), torch_scores(inputs, precision)
    difference = 1 - 2 * (ours * reference).sum() / (ours**2 + reference**2).sum()  # DeepGEMM's calc_diff
    assert difference < (1e-10 if precision is Precision.FP32 else 5e-6)


def test_fp8_scores_differ_from_fp32_ones_but_choose_nearly_the_same(inputs):
    exact, coarse = all_scores(inputs, Precision.FP32)[-1], all_scores(inputs, Precision.FP8)[-1]
    assert not np.allclose(exact, coarse, rtol=1e-4)
    assert np.intersect1d(top_k(exact, 64), top_k(coarse, 64)).size >= 0.85 * 64


def test_the_choice_is_hugging_faces(inputs):
    transformers = pytest.importorskip("transformers")
    modeling = pytest.importorskip("transformers.models.deepseek_v32.modeling_deepseek_v32")
    weights, hidden, q_latent, cos, sin = inputs
    config = transformers.DeepseekV32Config(
        hidden_size=HIDDEN,
        index_n_heads=HEADS,
        index_head_dim=WIDTH,
        index_topk=64,
        q_lora_rank=Q_LORA,
        qk_rope_head_dim=ROPE,
    )
    module = modeling.DeepseekV32Indexer(config, layer_idx=0)
    with torch.no_grad():
        module.wq_b.weight.copy_(torch.from_numpy(weights.wq_b))
        module.wk.weight.copy_(torch.from_numpy(weights.wk))
        module.k_norm.weight.copy_(torch.from_numpy(weights.k_norm_weight))
        module.k_norm.bias.copy_(torch.from_numpy(weights.k_norm_bias))
        module.weights_proj.weight.copy_(torch.from_numpy(weights.w_proj))
    rotary = tuple(torch.from_numpy(np.concatenate([each, each], -1))[None] for each in (cos, sin))
    causal = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)[None]
    positions = torch.arange(TOKENS)[None]
    chosen = module(torch.from_numpy(hidden)[None], torch.from_numpy(q_latent)[None], rotary, causal, positions)[
        0
    ].numpy()
    scores = all_scores(inputs, Precision.FP32)
    for token in range(64, TOKENS):
        assert top_k(scores[token, : token + 1], 64).tolist() == sorted(chosen[token].tolist())


def test_interleaved_rope_is_the_other_pairing_of_the_same_rotation(inputs):
    _, _, _, cos, sin = inputs
    values = np.random.default_rng(1).standard_normal((TOKENS, WIDTH)).astype(np.float32)
    order = np.r_[0:ROPE:2, 1:ROPE:2, ROPE:WIDTH]  # neighbours brought half a RoPE apart
    interleaved = indexer._rope(values, cos, sin, interleaved=True)
    np.testing.assert_array_equal(interleaved[:, order], indexer._rope(values[:, order], cos, sin, interleaved=False))


def test_keys_survive_the_pages_of_the_indexer_cache_to_the_bit(inputs):
    weights, hidden, _, cos, sin = inputs
    keys = indexer.index_keys(weights, hidden, cos, sin, Precision.FP8)
    pages = indexer.pack_index_pages(keys)
    assert pages.shape == (5, KvLayout.index_page().row_bytes)
    back = indexer.unpack_index_pages(pages, TOKENS)
    assert np.array_equal(back.values, keys.values)
    assert np.array_equal(back.scales, keys.scales)


def test_a_width_that_hadamard_cannot_rotate_is_refused():
    with pytest.raises(GeometryError, match="width=96 is not a power of two"):
        indexer._hadamard(96)

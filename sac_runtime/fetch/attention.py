"""Sparse decode attention over gathered rows, absorbed form.

Knows latents, RoPE keys and queries in fp32; knows no bytes, slots or stores.
"""

from math import log

import numpy as np

from sac_runtime.rows.layout import FloatArray


def softmax_scale(head_dim: int = 192, yarn_factor: float = 40.0) -> float:
    """head_dim^-1/2 (0.1 ln yarn_factor + 1)^2: 0.13523377886 for DeepSeek-V3.2. Source: DeepSeek-V3.2-Exp inference code."""
    return float(head_dim**-0.5 * (0.1 * log(yarn_factor) + 1) ** 2)


def absorb_queries(q_nope: FloatArray, w_uk: FloatArray) -> FloatArray:
    """Queries moved into latent space. q_nope: (H, nope); w_uk: (H, nope, D). Returns (H, D)."""
    absorbed: FloatArray = np.einsum("hn,hnd->hd", q_nope, w_uk)
    return absorbed


def expand_values(latent_out: FloatArray, w_uv: FloatArray) -> FloatArray:
    """Attention output in latent space to head values. latent_out: (H, D); w_uv: (H, v, D). Returns (H, v)."""
    values: FloatArray = np.einsum("hd,hvd->hv", latent_out, w_uv)
    return values


def sparse_attention(
    q_latent: FloatArray, q_rope: FloatArray, latent: FloatArray, rope: FloatArray, scale: float
) -> FloatArray:
    """One decode step over the chosen entries alone; their order does not matter.

    q_latent: (H, D) absorbed queries; q_rope: (H, R); latent: (k, D); rope: (k, R). Returns (H, D) fp32."""
    logits = (q_latent @ latent.T + q_rope @ rope.T) * np.float32(scale)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    total: FloatArray = weights.sum(axis=1, keepdims=True)
    output: FloatArray = (weights @ latent) / total
    return output

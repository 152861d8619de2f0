"""Sparse decode attention over gathered rows, absorbed form, and a dense masked reference written on its own.

Knows latents, RoPE keys and queries in fp32; knows no bytes, slots or stores.
"""

from math import log

import numpy as np
from numpy.typing import NDArray

from sac_runtime.rows.layout import FloatArray, IntArray


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


def dense_masked_reference(
    q_latent: FloatArray, q_rope: FloatArray, latent: FloatArray, rope: FloatArray, chosen: IntArray, scale: float
) -> NDArray[np.float64]:
    """What sparse_attention must give, from all T entries and a mask, head by head in fp64; slow and independent.

    latent: (T, D); rope: (T, R); chosen: (k,) positions; the rest as sparse_attention. Returns (H, D) fp64."""
    num_heads, num_tokens = q_latent.shape[0], latent.shape[0]
    masked = np.ones(num_tokens, bool)
    masked[chosen] = False
    keys = np.hstack([latent, rope]).astype(np.float64)
    output = np.empty((num_heads, latent.shape[1]), np.float64)
    for head in range(num_heads):
        query = np.concatenate([q_latent[head], q_rope[head]]).astype(np.float64)
        logits = np.where(masked, -np.inf, (keys * query).sum(axis=1) * scale)
        odds = np.exp(logits - logits[~masked].max())
        output[head] = np.average(latent.astype(np.float64), axis=0, weights=odds)
    return output

"""Sparse decode attention over gathered rows, absorbed form.

Knows latents, RoPE keys and queries in fp32; knows no bytes, slots or stores.
"""

from math import inf, log

import numpy as np

from sac_runtime.errors import GeometryError
from sac_runtime.rows.doors import require_array, require_whole
from sac_runtime.rows.layout import FloatArray


def softmax_scale(head_dim: int = 192, yarn_factor: float = 40.0) -> float:
    """head_dim^-1/2 (0.1 ln yarn_factor + 1)^2: 0.13523377886 for DeepSeek-V3.2; head_dim^-1/2 where yarn_factor does not exceed
    1. Source: DeepSeek-V3.2-Exp inference code. Raises GeometryError."""
    require_whole("softmax_scale", "head_dim", head_dim, 1)
    if not 0 < yarn_factor < inf:
        raise GeometryError(f"softmax_scale: yarn_factor={yarn_factor} must be a number above 0")
    return float(head_dim**-0.5 * (0.1 * log(max(1.0, yarn_factor)) + 1) ** 2)


def absorb_queries(q_nope: FloatArray, w_uk: FloatArray) -> FloatArray:
    """Queries moved into latent space. q_nope: (H, nope); w_uk: (H, nope, D). Returns (H, D). Raises GeometryError."""
    require_array("absorb_queries", "q_nope", q_nope, np.float32, ("H", "nope"))
    require_array("absorb_queries", "w_uk", w_uk, np.float32, (*q_nope.shape, "D"))
    absorbed: FloatArray = np.einsum("hn,hnd->hd", q_nope, w_uk)
    return absorbed


def expand_values(latent_out: FloatArray, w_uv: FloatArray) -> FloatArray:
    """Attention output in latent space to head values. latent_out: (H, D); w_uv: (H, v, D). Returns (H, v).
    Raises GeometryError."""
    require_array("expand_values", "latent_out", latent_out, np.float32, ("H", "D"))
    require_array("expand_values", "w_uv", w_uv, np.float32, (len(latent_out), "v", latent_out.shape[1]))
    values: FloatArray = np.einsum("hd,hvd->hv", latent_out, w_uv)
    return values


def sparse_attention(
    q_latent: FloatArray, q_rope: FloatArray, latent: FloatArray, rope: FloatArray, scale: float
) -> FloatArray:
    """One decode step over the chosen entries alone; their order does not matter.

    q_latent: (H, D) absorbed queries; q_rope: (H, R); latent: (k, D); rope: (k, R). Returns (H, D) fp32;
    zeros where nothing was chosen, as FlashMLA has it. Raises GeometryError."""
    require_array("sparse_attention", "q_latent", q_latent, np.float32, ("H", "D"))
    require_array("sparse_attention", "q_rope", q_rope, np.float32, (len(q_latent), "R"))
    require_array("sparse_attention", "latent", latent, np.float32, ("k", q_latent.shape[1]))
    require_array("sparse_attention", "rope", rope, np.float32, (len(latent), q_rope.shape[1]))
    if not len(latent):
        return np.zeros_like(q_latent)
    logits = (q_latent @ latent.T + q_rope @ rope.T) * np.float32(scale)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    total: FloatArray = weights.sum(axis=1, keepdims=True)
    output: FloatArray = (weights @ latent) / total
    return output

"""Dense masked attention over decoded rows: the reference that the guests' sparse attention is compared with.

Shares no code with the runtime: it decodes row formats by itself and attends over every token with a mask. Source of the formats
and of the scale: FlashMLA tests/quant.py (fp8 rows), DeepSeek-V3.2-Exp inference code (scale).
"""

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]

LATENT = 512
ROPE = 64
TILE = 128
YARN_FACTOR = 40
SOFTMAX_SCALE = 192**-0.5 * (0.1 * math.log(YARN_FACTOR) + 1) ** 2


def decode(rows: ByteArray, layout: str) -> FloatArray:
    """Values of rows. rows: (n, row_bytes) uint8; layout: "bf16", "fp8" or "fp32". Returns (n, LATENT + ROPE) fp32."""
    if layout == "fp32":
        return rows.view(np.float32)
    if layout == "bf16":
        return _bf16(rows)
    codes, scales, rope = np.split(rows, [LATENT, LATENT + 4 * (LATENT // TILE)], axis=1)
    scale = np.repeat(np.ascontiguousarray(scales).view(np.float32), TILE, axis=1)
    return np.concatenate([_E4M3[codes] * scale, _bf16(rope)], axis=1)


def dense_masked_attention(
    query: FloatArray, values: FloatArray, chosen: NDArray[np.int64], scale: float = SOFTMAX_SCALE
) -> FloatArray:
    """Attend over all tokens with those not in `chosen` masked to -inf.

    query: (H, LATENT + ROPE); values: (T, LATENT + ROPE), may hold NaN where not chosen; scale: of the softmax.
    Returns (H, LATENT) fp32."""
    mask = np.zeros(len(values), dtype=bool)
    mask[chosen] = True
    logits = np.where(mask, (query @ values.T).astype(np.float64) * scale, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    latent = np.where(mask[:, None], values[:, :LATENT], 0)  # a weight of 0 does not silence a NaN
    output: FloatArray = weights.astype(np.float32) @ latent
    return output


def _bf16(raw: ByteArray) -> FloatArray:
    return (np.ascontiguousarray(raw).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _e4m3_values() -> FloatArray:
    """Value of each of the 256 codes of e4m3fn: sign, 4 bits of exponent (bias 7), 3 of mantissa, no infinities."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    size = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    size[(code & 127) == 127] = np.nan
    return np.where(code & 128, -size, size).astype(np.float32)


_E4M3 = _e4m3_values()

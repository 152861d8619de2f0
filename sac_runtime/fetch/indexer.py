"""The lightning indexer: scores of all past tokens for one query token, in fp32, bf16 or simulated fp8. Plain numpy.

Knows projections, RoPE, the Hadamard rotation and precision; nothing of rows or buffers. Source of the steps:
DeepSeek-V3.2-Exp's inference code (the later, fixed version); Hugging Face's model leaves out Hadamard and fp8.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np

from sac_runtime.errors import GeometryError
from sac_runtime.rows.doors import require_array, require_whole
from sac_runtime.rows.layout import FP8_TILE, INDEX_PAGE_BYTES, INDEX_PAGE_TOKENS, ByteArray, FloatArray, Quantiser
from sac_runtime.rows.quantise import decode_e4m3, encode_e4m3, quantise_tiles, round_bf16

NORM_EPSILON = np.float32(1e-6)


class Precision(StrEnum):
    """What queries and keys are held in. Scores are summed in fp32 by all three."""

    FP32 = "fp32"
    BF16 = "bf16"  # rounded after each stage, as a bf16 model holds them
    FP8 = "fp8"  # as bf16, then e4m3 in groups of 128 with UE8M0_DEEPSEEK scales


@dataclass(frozen=True, eq=False)
class IndexerWeights:
    """Of one layer, fp32. wq_b: (I * W, q_lora); wk: (W, hidden); k_norm_weight, k_norm_bias: (W,); w_proj: (I, hidden).

    rope_interleaved: pairs (0, 1), (2, 3) ... as GLM rotates; DeepSeek rotates the first half of RoPE against the second.
    Raises GeometryError."""

    wq_b: FloatArray
    wk: FloatArray
    k_norm_weight: FloatArray
    k_norm_bias: FloatArray
    w_proj: FloatArray
    rope_interleaved: bool = False

    def __post_init__(self) -> None:
        require_array("indexer weights", "w_proj", self.w_proj, np.float32, ("I", "hidden"))
        require_array("indexer weights", "wk", self.wk, np.float32, ("W", self.w_proj.shape[1]))
        require_array("indexer weights", "wq_b", self.wq_b, np.float32, (self.num_heads * self.width, "q_lora"))
        require_array("indexer weights", "k_norm_weight", self.k_norm_weight, np.float32, (self.width,))
        require_array("indexer weights", "k_norm_bias", self.k_norm_bias, np.float32, (self.width,))

    @property
    def num_heads(self) -> int:
        return int(self.w_proj.shape[0])

    @property
    def width(self) -> int:
        return int(self.wk.shape[0])


@dataclass(frozen=True, eq=False)
class IndexQueries:
    """Queries of S tokens. values: (S, I, W), in fp8 the codes' values; head_weights: (S, I), all factors but k's scale."""

    values: FloatArray
    head_weights: FloatArray


@dataclass(frozen=True, eq=False)
class IndexKeys:
    """Keys of T tokens, one for all heads. values: (T, W), in fp8 the codes' values; scales: (T,), 1 unless fp8."""

    values: FloatArray
    scales: FloatArray


def index_queries(
    weights: IndexerWeights,
    hidden: FloatArray,
    q_latent: FloatArray,
    cos: FloatArray,
    sin: FloatArray,
    precision: Precision,
) -> IndexQueries:
    """Queries of S tokens. hidden: (S, hidden); q_latent: (S, q_lora), after its norm; cos, sin: (S, R / 2).
    Raises GeometryError."""
    num_tokens = _require_tokens("index_queries", weights, hidden, cos, sin)
    require_array("index_queries", "q_latent", q_latent, np.float32, (num_tokens, weights.wq_b.shape[1]))
    projected = _held(q_latent @ weights.wq_b.T, precision).reshape(-1, weights.num_heads, weights.width)
    values, scales = _rotate_and_quantise(weights, projected, cos[:, None], sin[:, None], precision)
    head_weights = hidden @ weights.w_proj.T * np.float32(weights.num_heads**-0.5 * weights.width**-0.5)
    return IndexQueries(values, head_weights * scales)


def index_keys(
    weights: IndexerWeights, hidden: FloatArray, cos: FloatArray, sin: FloatArray, precision: Precision
) -> IndexKeys:
    """Keys of T tokens. hidden: (T, hidden); cos, sin: (T, R / 2). Raises GeometryError."""
    _require_tokens("index_keys", weights, hidden, cos, sin)
    projected = _held(hidden @ weights.wk.T, precision)
    normed = _held(_layer_norm(projected, weights.k_norm_weight, weights.k_norm_bias), precision)
    return IndexKeys(*_rotate_and_quantise(weights, normed, cos, sin, precision))


def score(queries: IndexQueries, token: int, keys: IndexKeys) -> FloatArray:
    """Scores of the T tokens of `keys` for query `token`: k_scale_t sum_h relu(q_h . k_t) weight_h. Returns (T,) fp32.

    Causality is the caller's: give the keys up to the query's own. Raises GeometryError."""
    if queries.values.ndim != 3 or keys.values.ndim != 2 or queries.values.shape[2] != keys.values.shape[1]:
        raise GeometryError(
            f"score: queries of shape {queries.values.shape} and keys of shape {keys.values.shape} must be of one width"
        )
    require_whole("score", "token", token, 0, len(queries.values) - 1)
    require_array("score", "scales", keys.scales, np.float32, (len(keys.values),))
    require_array("score", "head_weights", queries.head_weights, np.float32, queries.values.shape[:2])
    similarity = np.maximum(queries.values[token] @ keys.values.T, np.float32(0))
    scores: FloatArray = (queries.head_weights[token] @ similarity) * keys.scales
    return scores


def pack_index_pages(keys: IndexKeys) -> ByteArray:
    """fp8 keys as the pages of an indexer cache: 64 x 128 e4m3, then 64 fp32 scales [DeepGEMM, SGLang].

    Returns (ceil(T / 64), 8448) uint8, rows of KvLayout.index_page(); places after the last token hold zeros. Raises
    GeometryError for keys of another width than 128, which such a page cannot hold."""
    require_array("pack_index_pages", "values", keys.values, np.float32, ("T", FP8_TILE))
    require_array("pack_index_pages", "scales", keys.scales, np.float32, (len(keys.values),))
    num_tokens, width = keys.values.shape
    num_pages = -(-num_tokens // INDEX_PAGE_TOKENS)
    unused = num_pages * INDEX_PAGE_TOKENS - num_tokens
    codes = np.pad(encode_e4m3(keys.values), ((0, unused), (0, 0))).reshape(num_pages, INDEX_PAGE_TOKENS * width)
    scales = np.pad(keys.scales.astype(np.float32), (0, unused)).reshape(num_pages, -1).view(np.uint8)
    return np.concatenate([codes, scales], axis=1)


def unpack_index_pages(pages: ByteArray, num_tokens: int) -> IndexKeys:
    """The reverse of pack_index_pages. pages: (n, 8448) uint8. Raises GeometryError."""
    require_array("unpack_index_pages", "pages", pages, np.uint8, ("n", INDEX_PAGE_BYTES))
    require_whole("unpack_index_pages", "num_tokens", num_tokens, 0, len(pages) * INDEX_PAGE_TOKENS)
    codes = pages[:, : INDEX_PAGE_TOKENS * FP8_TILE].reshape(-1, FP8_TILE)
    scales = np.ascontiguousarray(pages[:, INDEX_PAGE_TOKENS * FP8_TILE :]).view(np.float32).reshape(-1)
    return IndexKeys(decode_e4m3(codes[:num_tokens]), scales[:num_tokens])


def _rotate_and_quantise(
    weights: IndexerWeights, values: FloatArray, cos: FloatArray, sin: FloatArray, precision: Precision
) -> tuple[FloatArray, FloatArray]:
    """RoPE, Hadamard, and what the precision holds of it: values (..., W) and one scale for each group of W."""
    rotated = _held(_rope(values, cos, sin, weights.rope_interleaved), precision)
    spread = _held(rotated @ _hadamard(weights.width), precision)
    if precision is not Precision.FP8:
        return spread, np.ones(spread.shape[:-1], np.float32)
    codes, scales = quantise_tiles(spread, Quantiser.UE8M0_DEEPSEEK, tile=weights.width)
    return decode_e4m3(codes), scales[..., 0]


def _require_tokens(owner: str, weights: IndexerWeights, hidden: FloatArray, cos: FloatArray, sin: FloatArray) -> int:
    """The number of tokens that all arrays are of. Raises GeometryError."""
    require_array(owner, "hidden", hidden, np.float32, ("T", weights.w_proj.shape[1]))
    require_array(owner, "cos", cos, np.float32, (len(hidden), "R / 2"))
    require_array(owner, "sin", sin, np.float32, cos.shape)
    if 2 * cos.shape[1] > weights.width:
        raise GeometryError(f"{owner}: cos of {cos.shape[1]} pairs rotates more than the width of {weights.width}")
    return len(hidden)


def _held(values: FloatArray, precision: Precision) -> FloatArray:
    return values if precision is Precision.FP32 else round_bf16(values)


def _layer_norm(values: FloatArray, weight: FloatArray, bias: FloatArray) -> FloatArray:
    mean: FloatArray = values.mean(axis=-1, keepdims=True, dtype=np.float32)
    centred = values - mean
    variance: FloatArray = np.square(centred).mean(axis=-1, keepdims=True, dtype=np.float32)
    deviation: FloatArray = np.sqrt(variance + NORM_EPSILON)
    normed: FloatArray = centred / deviation * weight + bias
    return normed


def _rope(values: FloatArray, cos: FloatArray, sin: FloatArray, interleaved: bool) -> FloatArray:
    """Rotate the first 2 x cos.shape[-1] values of the last axis, in pairs of halves or of neighbours."""
    pairs = cos.shape[-1]
    first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    if interleaved:
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    rotated = values.copy()
    rotated[..., first] = values[..., first] * cos - values[..., second] * sin
    rotated[..., second] = values[..., second] * cos + values[..., first] * sin
    return rotated


@cache
def _hadamard(width: int) -> FloatArray:
    """The orthonormal Hadamard matrix (width, width), by doubling. Raises GeometryError unless width is a power of two."""
    if width < 1 or width & (width - 1):
        raise GeometryError(f"indexer: width={width} is not a power of two, as the Hadamard rotation needs")
    matrix = np.ones((1, 1), np.float32)
    while matrix.shape[0] < width:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix * np.float32(width**-0.5)

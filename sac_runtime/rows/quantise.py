"""Values to bytes and back: bf16, e4m3, the three fp8 quantisers, packed rows. Knows formats; no stores, no time.

Plain numpy, so that the same code runs in a guest. An all-zero tile is safe in all three quantisers: it decodes to zeros. An
infinite or NaN value makes its tile NaN, as it does in the sources.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sac_runtime.errors import GeometryError
from sac_runtime.rows.doors import described, require_array, require_floats, require_whole
from sac_runtime.rows.layout import FP8_TILE, ByteArray, FloatArray, KvLayout, Quantiser

E4M3_MAX = 448.0
SMALLEST_AMAX = np.float32(1e-4)  # UE8M0_DEEPSEEK
SMALLEST_SCALE = np.float32(1e-4)  # UE8M0_FLASHMLA

_E4M3_LARGEST, _E4M3_NAN = 0x7E, 0x7F
_E4M3_BIAS_GAP = (127 - 7) << 3  # exponent biases of fp32 and e4m3, above three mantissa bits
_E4M3_SMALLEST_NORMAL = np.float32(2.0**-6)
_E4M3_SUBNORMAL_STEPS = np.float32(2.0**9)  # subnormals are multiples of 2^-9


def encode_e4m3(values: NDArray[np.floating[Any]]) -> ByteArray:
    """Codes of the nearest e4m3fn values, ties to even; what lies beyond saturates at 448, a NaN stays one.

    Equal to torch.float8_e4m3fn of torch 2.13 (older ones gave NaN above 464) and to NVIDIA's cvt.satfinite.
    Raises GeometryError."""
    require_floats("encode_e4m3", "values", values)
    exact = np.asarray(values, np.float32)
    magnitude = np.abs(exact)
    bits = magnitude.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFFF) + (bits >> np.uint32(20) & np.uint32(1))) >> np.uint32(20)
    normal = rounded.astype(np.int32) - _E4M3_BIAS_GAP
    subnormal = np.rint(np.fmin(magnitude, _E4M3_SMALLEST_NORMAL) * _E4M3_SUBNORMAL_STEPS)
    code = np.where(magnitude < _E4M3_SMALLEST_NORMAL, subnormal.astype(np.int32), np.minimum(normal, _E4M3_LARGEST))
    code = np.where(np.isnan(exact), _E4M3_NAN, code)
    signed: ByteArray = (code | np.signbit(exact).astype(np.int32) << 7).astype(np.uint8)
    return signed


def decode_e4m3(codes: ByteArray) -> FloatArray:
    """The fp32 values of e4m3fn codes, uint8. Raises GeometryError."""
    if not isinstance(codes, np.ndarray) or codes.dtype != np.uint8:
        raise GeometryError(f"decode_e4m3: codes is {described(codes)}; it must be uint8")
    return _E4M3_VALUES[codes]


def _e4m3_values() -> FloatArray:
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    magnitude[code & 0x7F == _E4M3_NAN] = np.nan
    return np.where(code >> 7, -magnitude, magnitude).astype(np.float32)


_E4M3_VALUES = _e4m3_values()


def encode_bf16(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Bits of the nearest bf16 values, ties to even; a NaN stays one. Raises GeometryError."""
    require_floats("encode_bf16", "values", values)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def decode_bf16(bits: NDArray[np.uint16]) -> FloatArray:
    """The fp32 values of bf16 bits, uint16. Raises GeometryError."""
    if not isinstance(bits, np.ndarray) or bits.dtype != np.uint16:
        raise GeometryError(f"decode_bf16: bits is {described(bits)}; it must be uint16")
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def round_bf16(values: NDArray[np.floating[Any]]) -> FloatArray:
    """`values` rounded to bf16, as fp32."""
    return decode_bf16(encode_bf16(values))


def tile_scales(amax: FloatArray, quantiser: Quantiser) -> FloatArray:
    """The fp32 scale of tiles whose largest magnitudes are `amax`. Sources: sac_runtime.rows.layout.Quantiser.

    FP32_SGLANG has no epsilon: a tile of zeros (or so small that amax / 448 underflows) has scale 0."""
    if quantiser is Quantiser.UE8M0_DEEPSEEK:
        return _next_power_of_two(np.maximum(amax, SMALLEST_AMAX) / np.float32(E4M3_MAX))
    if quantiser is Quantiser.UE8M0_FLASHMLA:
        return _next_power_of_two(np.maximum(amax / np.float32(E4M3_MAX), SMALLEST_SCALE))
    return amax / np.float32(E4M3_MAX)


def _next_power_of_two(positive: NDArray[np.floating[Any]]) -> FloatArray:
    """2^ceil(log2 x), exactly, where a logarithm in fp32 may miss by one; inf and NaN stay what they are."""
    mantissa, exponent = np.frexp(positive)
    power = np.ldexp(np.float32(1), exponent - (mantissa == 0.5))
    return np.where(np.isfinite(positive), power, positive).astype(np.float32)


def quantise_tiles(values: FloatArray, quantiser: Quantiser, tile: int = FP8_TILE) -> tuple[ByteArray, FloatArray]:
    """e4m3 codes and scales of `values` in groups of `tile` along the last axis.

    values: (..., tiles * tile) fp32. Returns codes of the same shape and scales (..., tiles); codes are 0 where a scale is.
    Raises GeometryError."""
    require_whole("quantise_tiles", "tile", tile, 1)
    require_floats("quantise_tiles", "values", values)
    if values.dtype != np.float32 or values.ndim < 1 or values.shape[-1] % tile or not values.shape[-1]:
        raise GeometryError(
            f"quantise_tiles: values is {described(values)}; it must be float32, whole tiles of {tile} at its end"
        )
    tiles = values.reshape(*values.shape[:-1], values.shape[-1] // tile, tile)
    scales = tile_scales(np.abs(tiles).max(axis=-1), quantiser)
    divisors = np.where(scales == 0, np.float32(np.inf), scales)
    with np.errstate(invalid="ignore"):  # inf / inf
        codes = encode_e4m3(tiles / divisors[..., None])
    return codes.reshape(values.shape), scales


def dequantise_tiles(codes: ByteArray, scales: FloatArray) -> FloatArray:
    """Values of e4m3 codes and their scales; shapes as quantise_tiles gives them. Raises GeometryError."""
    if codes.shape[:-1] != scales.shape[:-1] or not scales.shape[-1] or codes.shape[-1] % scales.shape[-1]:
        raise GeometryError(
            f"dequantise_tiles: scales is {described(scales)}, codes {described(codes)}; scales must have one per tile of codes"
        )
    tiles = decode_e4m3(codes).reshape(*scales.shape, codes.shape[-1] // scales.shape[-1])
    with np.errstate(invalid="ignore"):  # 0 x inf
        return (tiles * scales[..., None]).reshape(codes.shape)


def pack_rows(layout: KvLayout, latent: FloatArray, rope: FloatArray) -> ByteArray:
    """Rows as bytes. latent: (n, D) fp32; rope: (n, R) fp32. Returns (n, layout.row_bytes) uint8. Raises GeometryError."""
    _require_values("pack_rows", layout)
    require_array("pack_rows", "latent", latent, np.float32, ("n", layout.latent))
    require_array("pack_rows", "rope", rope, np.float32, (len(latent), layout.rope))
    if layout.quantiser is not None:
        codes, scales = quantise_tiles(latent, layout.quantiser)
        return np.concatenate([codes, _as_bytes(scales), _as_bytes(encode_bf16(rope))], axis=1)
    values = np.concatenate([latent, rope], axis=1)
    return _as_bytes(encode_bf16(values) if layout.name == "bf16" else values.astype(np.float32))


def unpack_rows(layout: KvLayout, rows: ByteArray) -> tuple[FloatArray, FloatArray]:
    """The latent (n, D) and RoPE (n, R) parts of rows, fp32. rows: (n, layout.row_bytes) uint8. Raises GeometryError."""
    _require_values("unpack_rows", layout)
    require_array("unpack_rows", "rows", rows, np.uint8, ("n", layout.row_bytes))
    if layout.quantiser is not None:
        ends = layout.latent, layout.latent + 4 * (layout.latent // FP8_TILE)
        scales = np.ascontiguousarray(rows[:, ends[0] : ends[1]]).view(np.float32)
        rope = np.ascontiguousarray(rows[:, ends[1] :]).view(np.uint16)
        return dequantise_tiles(rows[:, : ends[0]], scales), decode_bf16(rope)
    packed = np.ascontiguousarray(rows)
    values = decode_bf16(packed.view(np.uint16)) if layout.name == "bf16" else packed.view(np.float32)
    return values[:, : layout.latent], values[:, layout.latent :]


def _require_values(owner: str, layout: KvLayout) -> None:
    """Raise GeometryError unless the rows of a layout are the values that its name says."""
    if layout.quantiser is not None:
        row_bytes = layout.latent + 4 * (layout.latent // FP8_TILE) + 2 * layout.rope
    else:
        row_bytes = {"bf16": 2, "fp32": 4}.get(layout.name, 0) * (layout.latent + layout.rope)
    if row_bytes != layout.row_bytes:
        raise GeometryError(
            f"{owner}: layout {layout.name!r} of row_bytes={layout.row_bytes} is none of bf16, fp32 or fp8 rows of "
            f"{layout.latent} and {layout.rope} values"
        )


def _as_bytes(values: NDArray[np.generic]) -> ByteArray:
    return np.ascontiguousarray(values).view(np.uint8)

"""Rows as bytes, made on the device: what sac_runtime.rows.quantise.pack_rows makes on the CPU, bit for bit. Knows row formats."""

import torch

from sac_runtime.errors import GeometryError
from sac_runtime.rows.layout import FP8_TILE, KvLayout, Quantiser
from sac_runtime.rows.quantise import E4M3_MAX, SMALLEST_AMAX, SMALLEST_SCALE


def pack_rows(layout: KvLayout, latent: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """latent: (..., D); rope: (..., R), of any float type. Returns (..., layout.row_bytes) uint8. Raises GeometryError."""
    if latent.shape[-1] != layout.latent or rope.shape != (*latent.shape[:-1], layout.rope):
        raise GeometryError(
            f"gpu pack_rows: latent {tuple(latent.shape)} and rope {tuple(rope.shape)} do not fit layout {layout.name!r}"
        )
    if layout.quantiser is not None:
        codes, scales = _quantised(latent.float(), layout.quantiser)
        return torch.cat([codes, _as_bytes(scales), _as_bytes(rope.to(torch.bfloat16))], dim=-1)
    values = torch.cat([latent, rope], dim=-1)
    return _as_bytes(values.to(torch.bfloat16) if layout.name == "bf16" else values.float())


def _quantised(values: torch.Tensor, quantiser: Quantiser) -> tuple[torch.Tensor, torch.Tensor]:
    """e4m3 codes of `values` in tiles, and the tiles' scales."""
    tiles = values.reshape(*values.shape[:-1], -1, FP8_TILE)
    scales = _scales(tiles.abs().amax(dim=-1), quantiser)
    divided = tiles / torch.where(scales == 0, torch.inf, scales).unsqueeze(-1)
    limited = divided.clamp(-E4M3_MAX, E4M3_MAX)  # a NaN stays one
    return limited.to(torch.float8_e4m3fn).view(torch.uint8).flatten(-2), scales


def _scales(amax: torch.Tensor, quantiser: Quantiser) -> torch.Tensor:
    largest = torch.full_like(amax, E4M3_MAX)  # divided by a number, a GPU would multiply by its inverse
    if quantiser is Quantiser.FP32_SGLANG:
        return amax / largest
    deepseek = quantiser is Quantiser.UE8M0_DEEPSEEK
    least = (
        amax.clamp(min=float(SMALLEST_AMAX)) / largest
        if deepseek
        else (amax / largest).clamp(min=float(SMALLEST_SCALE))
    )
    mantissa, exponent = torch.frexp(least)
    power = torch.ldexp(torch.ones_like(least), exponent - (mantissa == 0.5).to(exponent.dtype))
    return torch.where(least.isfinite(), power, least)


def _as_bytes(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous().view(torch.uint8)

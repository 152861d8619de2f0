"""Formats against torch's own conversions, and each quantiser against its published formula."""

import numpy as np
import pytest

from sac_runtime.errors import GeometryError
from sac_runtime.rows import quantise
from sac_runtime.rows.layout import KvLayout, Quantiser

torch = pytest.importorskip("torch")


def every_upper_half_and_the_ties_between():
    """Each bf16 bit pattern, and the fp32 values just below, at and above the middle to the next."""
    upper = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    return np.concatenate([upper | np.uint32(low) for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).view(np.float32)


def test_e4m3_codes_are_torchs_for_every_value_and_tie():
    values = every_upper_half_and_the_ties_between()
    reference = torch.from_numpy(values.copy()).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(quantise.encode_e4m3(values), reference)


def test_all_256_e4m3_codes_decode_as_torchs():
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(
        quantise.decode_e4m3(codes), torch.from_numpy(codes).view(torch.float8_e4m3fn).float()
    )


def test_bf16_bits_are_torchs_for_every_value_and_tie():
    values = every_upper_half_and_the_ties_between()
    numbers = values[~np.isnan(values)]
    reference = torch.from_numpy(numbers).to(torch.bfloat16).view(torch.uint16).numpy()
    np.testing.assert_array_equal(quantise.encode_bf16(numbers), reference)
    assert np.isnan(quantise.decode_bf16(quantise.encode_bf16(values[np.isnan(values)]))).all()


@pytest.mark.parametrize(
    ("amax", "deepseek", "flashmla", "sglang"),
    [
        (448.0, 1.0, 1.0, 1.0),
        (449.0, 2.0, 2.0, 449 / 448),
        (0.0, 2.0**-22, 2.0**-13, 0.0),  # 1e-4 / 448 and 1e-4, up to powers of two
        (0.01, 2.0**-15, 2.0**-13, 0.01 / 448),
        (1.0, 2.0**-8, 2.0**-8, 1 / 448),
    ],
)
def test_the_three_quantisers_give_their_published_scales(amax, deepseek, flashmla, sglang):
    tiles = np.array([amax], np.float32)
    scale_of = {name: float(quantise.tile_scales(tiles, name)[0]) for name in Quantiser}
    assert scale_of[Quantiser.UE8M0_DEEPSEEK] == deepseek
    assert scale_of[Quantiser.UE8M0_FLASHMLA] == flashmla
    assert scale_of[Quantiser.FP32_SGLANG] == pytest.approx(sglang, rel=1e-7)


LAYOUTS = [KvLayout.bf16(), KvLayout.fp32(), *(KvLayout.fp8(quantiser=quantiser) for quantiser in Quantiser)]


def layout_name(layout):
    return layout.quantiser or layout.name


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_name)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_rows_come_back_within_half_a_step_of_their_format(layout, scale):
    random = np.random.default_rng(0)
    latent = (scale * random.standard_normal((50, 512))).astype(np.float32)
    rope = random.standard_normal((50, 64)).astype(np.float32)
    rows = quantise.pack_rows(layout, latent, rope)
    assert rows.shape == (50, layout.row_bytes)
    latent_back, rope_back = quantise.unpack_rows(layout, rows)
    np.testing.assert_allclose(rope_back, rope, rtol=0 if layout.name == "fp32" else 2**-8)
    if layout.quantiser is None:
        np.testing.assert_allclose(latent_back, latent, rtol=0 if layout.name == "fp32" else 2**-8)
        return
    _, scales = quantise.quantise_tiles(latent, layout.quantiser)
    smallest_step = np.repeat(scales, 128, axis=1) * 2.0**-9
    # Half a step of three mantissa bits, or of the subnormals; 1e-6 for the fp32 division by a scale that is no power of two.
    assert (np.abs(latent_back - latent) <= np.abs(latent) * (2.0**-4 + 1e-6) + smallest_step / 2).all()


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_name)
def test_a_row_of_zeros_and_one_of_denormals_come_back_finite(layout):
    latent = np.zeros((2, 512), np.float32)
    latent[1] = 1e-44
    back, _ = quantise.unpack_rows(layout, quantise.pack_rows(layout, latent, np.zeros((2, 64), np.float32)))
    assert (back[0] == 0).all()
    assert np.abs(back[1]).max() <= 1e-44


def test_fields_of_an_fp8_row_lie_where_flashmla_has_them():
    latent = np.full((1, 512), 448.0, np.float32) * np.repeat([1, 2, 4, 8], 128)
    row = quantise.pack_rows(KvLayout.fp8(), latent.astype(np.float32), np.ones((1, 64), np.float32))[0]
    assert (row[:512] == 0x7E).all()
    assert row[512:528].view(np.float32).tolist() == [1, 2, 4, 8]
    assert (row[528:].view(np.uint16) == 0x3F80).all()


@pytest.mark.parametrize("quantiser", Quantiser)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_value_that_is_no_number_spoils_its_tile_alone(quantiser, value):
    layout = KvLayout.fp8(quantiser=quantiser)
    latent = np.ones((1, 512), np.float32)
    latent[0, 130] = value
    back, _ = quantise.unpack_rows(layout, quantise.pack_rows(layout, latent, np.ones((1, 64), np.float32)))
    assert np.isnan(back[0, 130])
    assert np.isfinite(np.delete(back[0], np.arange(128, 256))).all()


@pytest.mark.parametrize("layout", [KvLayout.bf16(), KvLayout.fp32(), KvLayout.fp8()], ids=lambda layout: layout.name)
def test_no_rows_are_packed_as_no_rows(layout):
    rows = quantise.pack_rows(layout, np.zeros((0, 512), np.float32), np.zeros((0, 64), np.float32))
    assert rows.shape == (0, layout.row_bytes)
    assert [part.shape for part in quantise.unpack_rows(layout, rows)] == [(0, 512), (0, 64)]


def test_rows_that_do_not_fit_the_layout_are_refused():
    with pytest.raises(
        GeometryError, match=r"pack_rows: latent is float32 of shape \(2, 500\); it must be float32 of shape \(n, 512\)"
    ):
        quantise.pack_rows(KvLayout.bf16(), np.zeros((2, 500), np.float32), np.zeros((2, 64), np.float32))

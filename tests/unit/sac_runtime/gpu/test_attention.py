"""Attention over slots beside numpy's, with every slot that was not chosen poisoned."""

import numpy as np
import pytest
import torch

from sac_runtime.errors import GeometryError
from sac_runtime.fetch.attention import softmax_scale, sparse_attention
from sac_runtime.gpu.attention import SlotAttention
from sac_runtime.gpu.buffers import BatchBuffers, BatchShape
from sac_runtime.rows.layout import KvLayout
from sac_runtime.rows.quantise import pack_rows, unpack_rows

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HEADS, TOP_K, CAPACITY, SCALE = 20, 40, 64, softmax_scale()


def unpoisoned(layout, slots, random):
    """Rows of one request, NaN but for the chosen."""
    latent, rope = np.full((CAPACITY + 1, 512), np.nan, np.float32), np.full((CAPACITY + 1, 64), np.nan, np.float32)
    latent[slots], rope[slots] = random.normal(size=(len(slots), 512)), random.normal(size=(len(slots), 64))
    with np.errstate(invalid="ignore"):
        return pack_rows(layout, latent, rope)


@pytest.mark.parametrize(
    "layout", [KvLayout.bf16(), KvLayout.fp8(padded=False), KvLayout.fp32()], ids=lambda each: each.name
)
def test_attention_over_slots_is_numpys_and_reads_no_other_slot(layout):
    random = np.random.default_rng(1)
    buffers = BatchBuffers(BatchShape(1, 2, TOP_K, CAPACITY, 128, 64), layout, DEVICE)
    chosen = [random.permutation(CAPACITY + 1)[:count] for count in (TOP_K, 7)]
    slots = torch.full((2, TOP_K), -1, dtype=torch.int32)
    queries = [(random.normal(size=(HEADS, width)) * 0.1).astype(np.float32) for _ in chosen for width in (512, 64)]
    for request, each in enumerate(chosen):
        buffers.rows[0, request] = torch.from_numpy(unpoisoned(layout, each, random)).to(DEVICE)
        slots[request, : len(each)] = torch.from_numpy(each)
    stacked = [torch.from_numpy(np.stack(queries[part::2])).to(DEVICE) for part in (0, 1)]
    output = SlotAttention(buffers, HEADS).attend(0, *stacked, slots.to(DEVICE), SCALE).cpu().numpy()
    for request, each in enumerate(chosen):
        latent, rope = unpack_rows(layout, buffers.rows[0, request].cpu().numpy()[each])
        expected = sparse_attention(queries[2 * request], queries[2 * request + 1], latent, rope, SCALE)
        tolerance = 2e-2 if DEVICE.type == "cuda" and layout.name != "fp32" else 2e-5
        assert np.abs(output[request] - expected).max() <= tolerance * np.abs(expected).max()


def test_rows_of_another_format_are_refused():
    layout = KvLayout("odd", 96, 96, latent=24, rope=24)
    buffers = BatchBuffers(BatchShape(1, 1, 4, 8, 16, 16), layout, DEVICE)
    with pytest.raises(GeometryError, match="widths that are powers of two"):
        SlotAttention(buffers, 4)

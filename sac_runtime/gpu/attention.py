"""Sparse decode attention over the slots of a batch, absorbed form, in Triton: rows are unpacked as they are loaded. Rows of bf16, of
fp8 (656 B, as FlashMLA lays them out) and of fp32. Queues work on the device and waits for nothing.

Knows row formats, slots and queries; knows no plans. Loads the chosen slots alone. sac_runtime.fetch.attention states the same in numpy.
"""

import torch
import triton
import triton.language as tl

from sac_runtime.errors import GeometryError
from sac_runtime.gpu.buffers import WORD_BYTES, BatchBuffers
from sac_runtime.rows.layout import FP8_TILE, KvLayout

BLOCK_HEADS = 16  # the least that a tensor core's product takes
BLOCK_ENTRIES = 32
PROGRAMS = 264  # that keep a large GPU busy: two per multiprocessor
BF16, FP8, FP32 = 0, 1, 2


@triton.jit
def e4m3_values(codes):
    """fp32 values of e4m3 bits, exactly: as fp16 bits their exponent is 8 too small."""
    bits = codes.to(tl.int16)
    magnitude = ((bits & 0x7F) << 7).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    magnitude = tl.where((bits & 0x7F) == 0x7F, float("nan"), magnitude)
    return tl.where((bits & 0x80) != 0, -magnitude, magnitude)


@triton.jit
def bf16_values(bits):
    """fp32 values of bf16 bits."""
    return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def unpacked(rows, seen, LATENT: tl.constexpr, ROPE: tl.constexpr, KIND: tl.constexpr, TILE: tl.constexpr):
    """Latents (N, LATENT) and RoPE keys (N, ROPE) of rows at addresses `rows`, fp32; zeros where not `seen`."""
    d, r, mask = tl.arange(0, LATENT)[None, :], tl.arange(0, ROPE)[None, :], seen[:, None]
    if KIND == 1:
        latent = e4m3_values(tl.load(rows[:, None] + d, mask=mask, other=0))
        scales = (rows + LATENT).to(tl.pointer_type(tl.float32))
        latent = latent * tl.load(scales[:, None] + d // TILE, mask=mask, other=0.0)
        rope_at = (rows + LATENT + 4 * (LATENT // TILE)).to(tl.pointer_type(tl.int16))
        return latent, bf16_values(tl.load(rope_at[:, None] + r, mask=mask, other=0))
    if KIND == 0:
        values = rows.to(tl.pointer_type(tl.int16))
        latent = bf16_values(tl.load(values[:, None] + d, mask=mask, other=0))
        return latent, bf16_values(tl.load(values[:, None] + LATENT + r, mask=mask, other=0))
    exact = rows.to(tl.pointer_type(tl.float32))
    latent = tl.load(exact[:, None] + d, mask=mask, other=0.0)
    return latent, tl.load(exact[:, None] + LATENT + r, mask=mask, other=0.0)


@triton.jit
def attend_kernel(
    q_latent,
    q_rope,
    buffer,
    slots,
    scale,
    partial,
    log_sums,
    HEADS: tl.constexpr,
    TOP_K: tl.constexpr,
    NUM_SLOTS: tl.constexpr,
    ROW_BYTES: tl.constexpr,
    LATENT: tl.constexpr,
    ROPE: tl.constexpr,
    KIND: tl.constexpr,
    TILE: tl.constexpr,
    DOT: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Attention of BLOCK_H heads of one request over one of SPLITS parts of its entries; the softmax runs along.

    partial: (R, SPLITS, H, LATENT) fp32, log_sums: (R, SPLITS, H) fp32, -inf for a part without entries."""
    request, split = tl.program_id(0), tl.program_id(2)
    heads = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    real = (heads < HEADS)[:, None]
    d, r = tl.arange(0, LATENT)[None, :], tl.arange(0, ROPE)[None, :]
    of_head = (request * HEADS + heads)[:, None]
    query = tl.load(q_latent + of_head * LATENT + d, mask=real, other=0.0).to(DOT)
    query_rope = tl.load(q_rope + of_head * ROPE + r, mask=real, other=0.0).to(DOT)
    PART: tl.constexpr = (TOP_K + SPLITS - 1) // SPLITS
    top = tl.full((BLOCK_H,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_H,), tl.float32)
    output = tl.zeros((BLOCK_H, LATENT), tl.float32)
    for start in range(0, PART, BLOCK_N):
        within = start + tl.arange(0, BLOCK_N)
        entries = split * PART + within
        slot = tl.load(slots + request * TOP_K + entries, mask=(within < PART) & (entries < TOP_K), other=-1)
        rows = buffer + (request.to(tl.int64) * NUM_SLOTS + slot) * ROW_BYTES
        latent, rope = unpacked(rows, slot >= 0, LATENT, ROPE, KIND, TILE)
        latent, rope = latent.to(DOT), rope.to(DOT)
        logits = tl.dot(query, tl.trans(latent), input_precision="ieee")
        logits = (logits + tl.dot(query_rope, tl.trans(rope), input_precision="ieee")) * scale
        logits = tl.where((slot >= 0)[None, :], logits, -float("inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        weights = tl.exp(logits - shift[:, None])
        shrink = tl.exp(top - shift)
        total = total * shrink + tl.sum(weights, 1)
        output = output * shrink[:, None] + tl.dot(weights.to(DOT), latent, input_precision="ieee")
        top = higher
    place = (request * SPLITS + split) * HEADS + heads
    tl.store(partial + place[:, None] * LATENT + d, output / tl.where(total > 0, total, 1.0)[:, None], mask=real)
    tl.store(log_sums + place, tl.where(total > 0, top + tl.log(tl.where(total > 0, total, 1.0)), -float("inf")), mask=heads < HEADS)


@triton.jit
def combine_kernel(
    partial, log_sums, out, HEADS: tl.constexpr, LATENT: tl.constexpr, SPLITS: tl.constexpr, BLOCK_S: tl.constexpr
):
    """Parts of one head of one request, weighted by their sums."""
    request, head = tl.program_id(0), tl.program_id(1)
    splits, d = tl.arange(0, BLOCK_S), tl.arange(0, LATENT)
    places = (request * SPLITS + splits) * HEADS + head
    sums = tl.load(log_sums + places, mask=splits < SPLITS, other=-float("inf"))
    weights = tl.exp(sums - tl.max(sums))
    parts = tl.load(partial + places[:, None] * LATENT + d[None, :], mask=(splits < SPLITS)[:, None], other=0.0)
    tl.store(out + (request * HEADS + head) * LATENT + d, tl.sum(parts * weights[:, None], 0) / tl.sum(weights))


class SlotAttention:
    """Attention over the slots of one batch, with its scratch; allocates nothing per step. num_heads: of the model.

    Products are of bf16 with fp32 sums on a GPU, of fp32 for rows of fp32 and on a CPU."""

    def __init__(self, buffers: BatchBuffers, num_heads: int) -> None:
        shape, layout = buffers.shape, buffers.layout
        self._kind = _kind(layout)
        self._buffers = buffers
        self._num_heads = num_heads
        self._head_blocks = -(-num_heads // BLOCK_HEADS)
        programs = shape.num_requests * self._head_blocks
        self._splits = max(1, min(PROGRAMS // programs, -(-shape.top_k // BLOCK_ENTRIES)))
        exact = self._kind == FP32 or buffers.device.type == "cpu"
        self._dot = tl.float32 if exact else tl.bfloat16
        parts = shape.num_requests, self._splits, num_heads
        self._partial = torch.empty((*parts, layout.latent), dtype=torch.float32, device=buffers.device)
        self._log_sums = torch.empty(parts, dtype=torch.float32, device=buffers.device)
        self.output = torch.empty(
            (shape.num_requests, num_heads, layout.latent), dtype=torch.float32, device=buffers.device
        )

    def attend(
        self, layer: int, q_latent: torch.Tensor, q_rope: torch.Tensor, slots: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """q_latent: (R, H, D) absorbed queries; q_rope: (R, H, R'), both fp32, contiguous; slots: (R, k) int32, -1 for none; each
        request needs one at least. Returns (R, H, D) fp32, which the next call overwrites."""
        shape, layout = self._buffers.shape, self._buffers.layout
        attend_kernel[(shape.num_requests, self._head_blocks, self._splits)](
            q_latent,
            q_rope,
            self._buffers.rows[layer],
            slots,
            scale,
            self._partial,
            self._log_sums,
            self._num_heads,
            shape.top_k,
            shape.capacity + 1,
            layout.row_bytes,
            layout.latent,
            layout.rope,
            self._kind,
            FP8_TILE,
            self._dot,
            self._splits,
            BLOCK_HEADS,
            BLOCK_ENTRIES,
            num_warps=4,
        )
        combine_kernel[(shape.num_requests, self._num_heads)](
            self._partial,
            self._log_sums,
            self.output,
            self._num_heads,
            layout.latent,
            self._splits,
            triton.next_power_of_2(self._splits),
            num_warps=4,
        )
        return self.output


def _kind(layout: KvLayout) -> int:
    """Raises GeometryError for rows that the kernels cannot unpack."""
    values = layout.latent + layout.rope
    sizes = {2 * values: BF16, 4 * values: FP32}
    kind = FP8 if layout.quantiser is not None else sizes.get(layout.row_bytes)
    powers = all(width and width & (width - 1) == 0 for width in (layout.latent, layout.rope))
    if kind is None or not powers or layout.row_bytes % WORD_BYTES:
        raise GeometryError(
            f"gpu attention: layout {layout.name!r} of {layout.latent} and {layout.rope} values in {layout.row_bytes} B; it must be "
            "bf16, fp8 or fp32 with widths that are powers of two"
        )
    return kind

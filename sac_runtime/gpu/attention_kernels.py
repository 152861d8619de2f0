"""Sparse decode attention over slots, absorbed form, in Triton: rows are unpacked as they are loaded, the chosen slots' alone.
sac_runtime.fetch.attention states the same in numpy."""

import triton
import triton.language as tl


@triton.jit
def e4m3_values(codes, NATIVE: tl.constexpr):
    """fp32 values of e4m3 bits. Where the device has no such type: as fp16 bits their exponent is 8 too small."""
    if NATIVE:
        return codes.to(tl.float8e4nv, bitcast=True).to(tl.float32)
    bits = codes.to(tl.int16)
    magnitude = ((bits & 0x7F) << 7).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    magnitude = tl.where((bits & 0x7F) == 0x7F, float("nan"), magnitude)
    return tl.where((bits & 0x80) != 0, -magnitude, magnitude)


@triton.jit
def bf16_values(bits):
    """fp32 values of bf16 bits."""
    return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def unpacked(
    rows,
    seen,
    LATENT: tl.constexpr,
    ROPE: tl.constexpr,
    KIND: tl.constexpr,
    TILE: tl.constexpr,
    NATIVE: tl.constexpr,
    N: tl.constexpr,
):
    """Latents (N, LATENT) and RoPE keys (N, ROPE) of rows at addresses `rows`, fp32; zeros where not `seen`."""
    d, r, mask = tl.arange(0, LATENT)[None, :], tl.arange(0, ROPE)[None, :], seen[:, None]
    if KIND == 1:
        latent = e4m3_values(tl.load(rows[:, None] + d, mask=mask, other=0), NATIVE)
        scales = (rows + LATENT).to(tl.pointer_type(tl.float32))[:, None] + tl.arange(0, LATENT // TILE)[None, :]
        tiles = tl.reshape(latent, (N, LATENT // TILE, TILE)) * tl.load(scales, mask=mask, other=0.0)[:, :, None]
        latent = tl.reshape(tiles, (N, LATENT))
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
    NATIVE: tl.constexpr,
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
        latent, rope = unpacked(rows, slot >= 0, LATENT, ROPE, KIND, TILE, NATIVE, BLOCK_N)
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
    tl.store(
        log_sums + place,
        tl.where(total > 0, top + tl.log(tl.where(total > 0, total, 1.0)), -float("inf")),
        mask=heads < HEADS,
    )


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

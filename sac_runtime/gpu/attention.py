"""Sparse decode attention over the slots of a batch. Rows of bf16, of fp8 (656 B, as FlashMLA lays them out) and of fp32.
Queues work on the device and waits for nothing. Knows row formats, slots and queries; no plans."""

import torch
import triton
import triton.language as tl

from sac_runtime.errors import GeometryError
from sac_runtime.gpu.attention_kernels import attend_kernel, combine_kernel
from sac_runtime.gpu.buffers import WORD_BYTES, BatchBuffers
from sac_runtime.rows.layout import FP8_TILE, KvLayout

BLOCK_HEADS = 16  # the least that a tensor core's product takes
BLOCK_ENTRIES = 32
PROGRAMS = 264  # that keep a large GPU busy: two per multiprocessor
BF16, FP8, FP32 = 0, 1, 2


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
            self._buffers.device.type == "cuda",
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
            f"gpu attention: layout {layout.name!r} of {layout.latent} and {layout.rope} values in {layout.row_bytes} B; it must "
            "be bf16, fp8 or fp32 with widths that are powers of two"
        )
    return kind

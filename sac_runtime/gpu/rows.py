"""Rows to and from slots and the pool, beside the swap-in: new rows into their slots, new rows back to the pool, plain gathers.
Queues work on the device and waits for nothing. Knows rows and placements; knows no rule of a buffer."""

import torch
import triton

from sac_runtime.errors import GeometryError
from sac_runtime.gpu import kernels
from sac_runtime.gpu.buffers import WORD_BYTES, BatchBuffers
from sac_runtime.gpu.registration import RegisteredStore
from sac_runtime.rows.layout import KvLayout


def gather_rows(store: RegisteredStore, rows: torch.Tensor, out: torch.Tensor) -> None:
    """Row rows[i] of the pool into out[i]. rows: (n,) int64, each within the store, which no kernel checks; out: (n, row_bytes)
    uint8, both on the device."""
    _require_rows(store.layout, rows, out)
    if len(rows):
        kernels.gather_rows_kernel[(len(rows),)](
            store.rows_address, rows, out.view(torch.int32), *_words(store.layout), num_warps=2
        )


def scatter_rows(store: RegisteredStore, rows: torch.Tensor, values: torch.Tensor) -> None:
    """values[i] to row rows[i] of the pool: the write path, a layer of a prefill at once. As gather_rows; rows must differ.

    Other hosts see them once the stream is synchronised and the pool has flushed and published their blocks."""
    _require_rows(store.layout, rows, values)
    if len(rows):
        kernels.scatter_rows_kernel[(len(rows),)](
            store.rows_address, rows, values.view(torch.int32), *_words(store.layout), num_warps=2
        )


def place_newest(buffers: BatchBuffers, layer: int, values: torch.Tensor, lengths: torch.Tensor) -> None:
    """The newest tokens' rows into their slots, after the step of `layer` and before attention. values: (R, row_bytes) uint8;
    lengths: as BatchSwap.fetch."""
    shape = buffers.shape
    _, row_words, block = _words(buffers.layout)
    kernels.place_newest_kernel[(shape.num_requests,)](
        values.view(torch.int32),
        lengths,
        buffers.held[layer],
        buffers.rows[layer].view(torch.int32),
        shape.capacity,
        row_words,
        block,
        num_warps=1,
    )


def write_back(store: RegisteredStore, buffers: BatchBuffers, first_rows: torch.Tensor, lengths: torch.Tensor) -> None:
    """End a step: the newest tokens' rows of all layers from their slots to the pool. first_rows: (L,) int64, of LayerRows."""
    shape = buffers.shape
    kernels.write_back_kernel[(shape.num_layers, shape.num_requests)](
        store.rows_address,
        buffers.pages,
        first_rows,
        lengths,
        buffers.held,
        buffers.rows.view(torch.int32),
        shape.num_requests,
        shape.capacity,
        shape.page_tokens,
        shape.pages,
        *_words(buffers.layout),
        num_warps=1,
    )


def _words(layout: KvLayout) -> tuple[int, int, int]:
    """Words from row to row, words of a row, and the power of two above."""
    row_words = layout.row_bytes // WORD_BYTES
    return layout.stride_bytes // WORD_BYTES, row_words, int(triton.next_power_of_2(row_words))


def _require_rows(layout: KvLayout, rows: torch.Tensor, packed: torch.Tensor) -> None:
    if rows.dtype != torch.int64 or packed.dtype != torch.uint8 or packed.shape != (len(rows), layout.row_bytes):
        raise GeometryError(
            f"gpu rows: {rows.dtype} rows and {packed.dtype} of shape {tuple(packed.shape)}; "
            f"they must be int64 and uint8 of shape {(len(rows), layout.row_bytes)}"
        )
    if not rows.is_contiguous() or not packed.is_contiguous():
        raise GeometryError("gpu rows: rows and what is packed must be contiguous")

"""A layer of a decode step of a batch: plan, and load what is missing straight from the pool's mapping into slots. Queues work on
the device, waits for nothing and allocates nothing, so that CUDA graphs can capture it.

Two ways give the same plans and bytes: `TritonSwap`, two kernels, anywhere Triton or its interpreter runs; `CudaSwap`, one launch
of native/swap.cu. `swap_of` takes the second on a GPU.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, Protocol

import torch
import triton

from sac_runtime.errors import GeometryError
from sac_runtime.gpu import kernels
from sac_runtime.gpu.buffers import WORD_BYTES, BatchBuffers, BatchPlan, BatchShape
from sac_runtime.gpu.compiler import FOLDER, compile_cubin
from sac_runtime.gpu.device import Kernel
from sac_runtime.gpu.pace import AS_IT_COMES, Pace
from sac_runtime.gpu.registration import RegisteredStore
from sac_runtime.rows.layout import KvLayout

THREADS = 1024  # of a block of swap.cu
ROWS_IN_FLIGHT = 2  # of a gathering warp
MOST_ROWS = 2**32  # of a store, as swap.cu numbers them


class Gatherers(NamedTuple):
    """How many blocks of a launch load rows, by how many warps each, each with how many rows in flight."""

    blocks: int
    warps: int
    rows: int = ROWS_IN_FLIGHT


def gatherers_for(num_requests: int, row_bytes: int) -> Gatherers:
    """Those that suit a batch: about 300 KB in flight; of many requests half of that, by fewer multiprocessors, which stay within
    fewer requests' extents at once. Measured: scripts/bench/gpu.py --sweep."""
    if num_requests < 32:
        return Gatherers(16, 8)
    return Gatherers(8, 16, 1 if row_bytes >= 1024 else 2)


class BatchSwap(Protocol):
    """SlotGather for a whole batch, on a device: see sac_runtime.memory.store.SlotGather."""

    buffers: BatchBuffers

    def fetch(
        self, layer: int, topk: torch.Tensor, num_topk: torch.Tensor, lengths: torch.Tensor, first_row: int
    ) -> BatchPlan:
        """Queue a step of a layer: plan it, and bring its misses into their slots.

        topk: (R, k) int32 tokens, of which the first num_topk[r] count; num_topk: (R,) int32. lengths: (R,) int32, tokens of each
        sequence, the newest included; 0 leaves a request out, -1 has neither newest token nor direct path, as in a replayed trace.
        first_row: of LayerRows. Of a request that cannot be planned nothing changes: BatchBuffers.raise_refusals says so later."""
        ...


class TritonSwap:
    """Plan and gather as two kernels in Triton."""

    def __init__(self, store: RegisteredStore, buffers: BatchBuffers) -> None:
        shape = buffers.shape
        self.buffers = buffers
        self._store = store
        self._words = buffers.layout.row_bytes // WORD_BYTES
        self._rows = torch.zeros((shape.num_requests, shape.top_k), dtype=torch.int64, device=buffers.device)
        self._victims = torch.zeros_like(buffers.plan.slots)
        tokens = shape.pages * shape.page_tokens
        self._entry_of_token = torch.zeros((shape.num_requests, tokens), dtype=torch.int32, device=buffers.device)

    def fetch(
        self, layer: int, topk: torch.Tensor, num_topk: torch.Tensor, lengths: torch.Tensor, first_row: int
    ) -> BatchPlan:
        """As BatchSwap.fetch."""
        require_step(self.buffers.shape, topk, num_topk, lengths)
        self.plan(layer, topk, num_topk, lengths, first_row)
        shape, layout, plan = self.buffers.shape, self.buffers.layout, self.buffers.plan
        kernels.gather_kernel[(shape.top_k, shape.num_requests)](
            self._store.rows_address,
            self._rows,
            plan.victim_slots,
            plan.num_misses,
            self.buffers.rows[layer].view(torch.int32),
            shape.top_k,
            shape.capacity,
            layout.stride_bytes // WORD_BYTES,
            self._words,
            triton.next_power_of_2(self._words),
            num_warps=1,
        )
        return plan

    def plan(
        self, layer: int, topk: torch.Tensor, num_topk: torch.Tensor, lengths: torch.Tensor, first_row: int
    ) -> BatchPlan:
        """The first half of fetch()."""
        buffers, shape = self.buffers, self.buffers.shape
        kernels.plan_kernel[(shape.num_requests,)](
            topk,
            num_topk,
            lengths,
            buffers.pages,
            first_row,
            self._store.num_rows,
            buffers.tokens[layer],
            buffers.order[layer],
            buffers.held[layer],
            buffers.held if buffers.seen is None else buffers.seen[layer],
            buffers.counters[layer],
            buffers.plan.slots,
            buffers.plan.miss_tokens,
            buffers.plan.victim_slots,
            buffers.plan.num_misses,
            buffers.plan.status,
            self._rows,
            self._entry_of_token,
            self._victims,
            shape.top_k,
            shape.capacity,
            shape.page_tokens,
            shape.pages,
            shape.count_compulsory,
            triton.next_power_of_2(shape.top_k),
            triton.next_power_of_2(shape.capacity),
            num_warps=16,
        )
        return buffers.plan


class SwapKernel(Protocol):
    """native/swap.cu, compiled for the sizes of a batch: by swap_kernel for a GPU, by the tests for a CPU."""

    def launch(self, blocks: int, threads: int, arguments: Sequence[ctypes.Structure]) -> None: ...


class CudaSwap:
    """The whole step in one launch. gatherers: None for those that suit the size of the batch.
    Raises GeometryError for more of them than leave room for planning blocks, GpuError."""

    def __init__(
        self,
        store: RegisteredStore,
        buffers: BatchBuffers,
        pace: Pace = AS_IT_COMES,
        *,
        gatherers: Gatherers | None = None,
        threads: int = THREADS,
        kernel: SwapKernel | None = None,
    ) -> None:
        shape, device = buffers.shape, buffers.device
        if store.num_rows > MOST_ROWS:
            raise GeometryError(f"gpu swap: num_rows={store.num_rows} exceeds {MOST_ROWS}")
        self.buffers = buffers
        self.pace = pace
        self._store = store
        self._threads = threads
        if gatherers is None:
            gatherers = gatherers_for(shape.num_requests, buffers.layout.row_bytes)
        if kernel is None:
            _require_room(gatherers, threads, device)
            kernel = swap_kernel(shape.top_k, shape.capacity, buffers.layout, gatherers.rows, threads)
        self._kernel = kernel
        self._blocks = shape.num_requests + gatherers.blocks
        self._misses = torch.zeros((shape.num_requests, shape.top_k), dtype=torch.int64, device=device)
        self._ready = torch.zeros(shape.num_requests, dtype=torch.int32, device=device)
        self._epochs = torch.zeros(gatherers.blocks * gatherers.warps, dtype=torch.int32, device=device)
        self._arguments = [self._argument(layer, gatherers.warps) for layer in range(shape.num_layers)]

    def fetch(
        self, layer: int, topk: torch.Tensor, num_topk: torch.Tensor, lengths: torch.Tensor, first_row: int
    ) -> BatchPlan:
        """As BatchSwap.fetch."""
        return self._step(layer, topk, num_topk, lengths, first_row, plans_only=False)

    def plan(
        self, layer: int, topk: torch.Tensor, num_topk: torch.Tensor, lengths: torch.Tensor, first_row: int
    ) -> BatchPlan:
        """fetch() without the loads, for measuring: slots then hold other rows than the plan says."""
        return self._step(layer, topk, num_topk, lengths, first_row, plans_only=True)

    def _step(
        self,
        layer: int,
        topk: torch.Tensor,
        num_topk: torch.Tensor,
        lengths: torch.Tensor,
        first_row: int,
        plans_only: bool,
    ) -> BatchPlan:
        require_step(self.buffers.shape, topk, num_topk, lengths)
        argument = self._arguments[layer]
        argument.plans_only = plans_only
        argument.topk, argument.num_topk, argument.lengths = topk.data_ptr(), num_topk.data_ptr(), lengths.data_ptr()
        argument.pool, argument.first_row = self._store.rows_address, first_row
        argument.first_ns, argument.row_ps = self.pace
        self._kernel.launch(self._blocks, self._threads, [argument])
        return self.buffers.plan

    def _argument(self, layer: int, gather_warps: int) -> "SwapArgument":
        """All of a layer's argument that stays from step to step."""
        buffers, shape = self.buffers, self.buffers.shape
        argument = SwapArgument(
            num_rows=self._store.num_rows,
            page_tokens=shape.page_tokens,
            pages_per_request=shape.pages,
            seen_words=shape.seen_words,
            num_requests=shape.num_requests,
            gather_warps=gather_warps,
        )
        tensors = {"pages": buffers.pages, "misses": self._misses, "ready": self._ready, "epochs": self._epochs}
        tensors |= {name: getattr(buffers, name)[layer] for name in ("tokens", "order", "held", "counters")}
        tensors |= {"buffer": buffers.rows[layer]} | buffers.plan._asdict()
        if buffers.seen is not None:
            tensors["seen"] = buffers.seen[layer]
        for name, tensor in tensors.items():
            setattr(argument, name, tensor.data_ptr())
        return argument


class SwapArgument(ctypes.Structure):
    """`struct Swap` of native/swap.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("topk", "num_topk", "lengths", "pool", "pages")),
        ("first_row", ctypes.c_int64),
        ("num_rows", ctypes.c_int64),
        ("page_tokens", ctypes.c_int32),
        ("pages_per_request", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("tokens", "order", "held", "seen")),
        ("seen_words", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("counters", "buffer", "slots", "miss_tokens", "victim_slots")),
        *((name, ctypes.c_void_p) for name in ("num_misses", "status", "misses", "ready", "epochs")),
        ("num_requests", ctypes.c_int32),
        ("gather_warps", ctypes.c_int32),
        ("plans_only", ctypes.c_int32),
        ("first_ns", ctypes.c_int64),
        ("row_ps", ctypes.c_int64),
    )


def swap_of(store: RegisteredStore, buffers: BatchBuffers, pace: Pace = AS_IT_COMES) -> BatchSwap:
    """The faster way that the device has. Raises GeometryError for a pace where nothing can keep it."""
    if buffers.device.type == "cuda":
        return CudaSwap(store, buffers, pace)
    if pace != AS_IT_COMES:
        raise GeometryError("gpu swap: a pace is kept by native/swap.cu alone, which needs a GPU")
    return TritonSwap(store, buffers)


def require_step(shape: BatchShape, topk: torch.Tensor, num_topk: torch.Tensor, lengths: torch.Tensor) -> None:
    """Raise GeometryError unless a step's tensors are those of the batch; kernels check no shapes."""
    asked: dict[str, tuple[torch.Tensor, tuple[int, ...]]] = {"topk": (topk, (shape.num_requests, shape.top_k))}
    asked |= {"num_topk": (num_topk, (shape.num_requests,)), "lengths": (lengths, (shape.num_requests,))}
    for name, (tensor, expected) in asked.items():
        if tensor.shape != expected or tensor.dtype != torch.int32 or not tensor.is_contiguous():
            raise GeometryError(
                f"gpu swap: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}; it must be contiguous int32, {expected}"
            )


def _require_room(gatherers: Gatherers, threads: int, device: torch.device) -> None:
    """Gathering blocks wait for planning ones, so they alone must never fill the device."""
    blocks, warps, _ = gatherers
    most_blocks = torch.cuda.get_device_properties(device).multi_processor_count // 2
    if not 1 <= blocks <= most_blocks or not 1 <= warps <= threads // 32:
        raise GeometryError(
            f"gpu swap: {blocks} gathering blocks of {warps} warps; at most {most_blocks} of {threads // 32}"
        )


def swap_defines(
    top_k: int, capacity: int, layout: KvLayout, rows_in_flight: int, threads: int
) -> list[tuple[str, int]]:
    """What native/swap.cu is compiled with. Homes of entries are eight times as many as entries, so that few overflow."""
    chunk = next(size for size in (16, 8, WORD_BYTES) if layout.row_bytes % size == layout.stride_bytes % size == 0)
    entry_bits = max(3, (top_k - 1).bit_length())
    return [
        ("THREADS", threads),
        ("TOP_K", top_k),
        ("CAPACITY", capacity),
        ("CHUNK", chunk),
        ("ROW_CHUNKS", layout.row_bytes // chunk),
        ("STRIDE_CHUNKS", layout.stride_bytes // chunk),
        ("ROWS", rows_in_flight),
        ("HOME_BITS", entry_bits + 3),
        ("OVERFLOW_BITS", entry_bits + 1),
    ]


@cache
def swap_kernel(top_k: int, capacity: int, layout: KvLayout, rows_in_flight: int, threads: int) -> Kernel:
    """native/swap.cu for these sizes, compiled for the current device once per process. Raises GpuError."""
    defines = swap_defines(top_k, capacity, layout, rows_in_flight, threads)
    major, minor = torch.cuda.get_device_capability()
    image = compile_cubin(FOLDER / "swap.cu", defines, f"sm_{major}{minor}")
    return Kernel(image, "swap_in", shared_bytes(top_k, capacity, dict(defines), threads))


def shared_bytes(top_k: int, capacity: int, defines: dict[str, int], threads: int, warp: int = 32) -> int:
    """Size of `struct Shared` of native/swap.h."""
    tiles = (-(-capacity // threads) + -(-top_k // threads)) * threads // warp
    return 2 * (1 << defines["HOME_BITS"]) + 4 * ((1 << defines["OVERFLOW_BITS"]) + 3 * top_k + tiles + 5)

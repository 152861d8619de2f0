"""A decode loop of DeepSeek-V3.2's dimensions on a GPU, one request: SAC from the pool beside all rows in HBM.

The indexer's scores are not computed: its keys lie in HBM in every arm. What differs is where rows come from."""

import ctypes
import statistics
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from gpu_pools import DEVICE, expected_rows
from gpu_swap import graph_of, replay_us

from sac_runtime.fetch.attention import softmax_scale
from sac_runtime.gpu.attention import SlotAttention
from sac_runtime.gpu.buffers import BatchBuffers, BatchShape
from sac_runtime.gpu.registration import RegisteredStore
from sac_runtime.gpu.rows import place_newest, write_back
from sac_runtime.gpu.swap import CudaSwap
from sac_runtime.rows.layout import DEEPSEEK_LAYERS, DEEPSEEK_TOP_K

HEADS = 128
INDEX_KEY_BYTES = 132
STEPS = 9


class SacDecode:
    """Steps of one request whose rows stay in the pool, one extent per layer; hot buffers of twice top-k slots."""

    def __init__(self, store: RegisteredStore, context_tokens: int) -> None:
        self.store, self.context_tokens = store, context_tokens
        shape = BatchShape(
            DEEPSEEK_LAYERS,
            1,
            DEEPSEEK_TOP_K,
            2 * DEEPSEEK_TOP_K,
            context_tokens,
            context_tokens,
            count_compulsory=False,
        )
        self.buffers = BatchBuffers(shape, store.layout, DEVICE)
        self.swap = CudaSwap(store, self.buffers)
        self.attention = SlotAttention(self.buffers, HEADS)
        self.topk = torch.zeros((DEEPSEEK_LAYERS, 1, DEEPSEEK_TOP_K), dtype=torch.int32, device=DEVICE)
        self.counts = torch.full((1,), DEEPSEEK_TOP_K, dtype=torch.int32, device=DEVICE)
        self.lengths = torch.full((1,), context_tokens, dtype=torch.int32, device=DEVICE)
        self.first_rows = torch.arange(DEEPSEEK_LAYERS, device=DEVICE) * context_tokens
        newest = self.first_rows + context_tokens - 1
        self.newest = expected_rows(store.layout, newest)[:, None].contiguous()
        self.queries = queries()

    def step(self) -> None:
        for layer in range(DEEPSEEK_LAYERS):
            plan = self.swap.fetch(layer, self.topk[layer], self.counts, self.lengths, layer * self.context_tokens)
            place_newest(self.buffers, layer, self.newest[layer], self.lengths)
            self.attention.attend(layer, *self.queries, plan.slots, softmax_scale())
        write_back(self.store, self.buffers, self.first_rows, self.lengths)

    def draw(self, misses: int) -> None:
        """Another top-k: hits anywhere in the order of use, misses anywhere else, the newest token among neither."""
        for layer in range(DEEPSEEK_LAYERS):
            held = self.buffers.tokens[layer].long()
            hits = torch.rand(held.shape, device=DEVICE).topk(DEEPSEEK_TOP_K - misses).indices
            keys = torch.rand((1, self.context_tokens - 1), device=DEVICE)
            if misses < DEEPSEEK_TOP_K:
                keys.scatter_(1, held, -1.0)
            self.topk[layer] = torch.cat([held.gather(1, hits), keys.topk(misses).indices], dim=1).to(torch.int32)

    def begin_cold(self) -> None:
        self.buffers.forget()
        self.draw(DEEPSEEK_TOP_K)

    def warm(self) -> None:
        """Fill every slot, so that steps find the buffers as a long decode leaves them."""
        self.begin_cold()
        for _ in range(3):
            self.step()
            torch.cuda.synchronize()
            self.draw(DEEPSEEK_TOP_K)


def queries() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn((1, HEADS, 512), device=DEVICE) * 0.05, torch.randn((1, HEADS, 64), device=DEVICE) * 0.05


def decode_figures(store: RegisteredStore, context_tokens: int, misses: tuple[int, ...]) -> dict[str, float]:
    """Milliseconds and bytes of each arm at one context."""
    figures = sac_figures(store, context_tokens, misses)
    torch.cuda.empty_cache()
    figures |= resident_figures(store, context_tokens)
    torch.cuda.empty_cache()
    return figures


def sac_figures(store: RegisteredStore, context_tokens: int, misses: tuple[int, ...]) -> dict[str, float]:
    """The first step after a hit, its buffers empty, and later ones with so many misses per layer."""
    before = torch.cuda.memory_allocated()
    sac = SacDecode(store, context_tokens)
    figures: dict[str, float] = {"sac_hbm_bytes": torch.cuda.memory_allocated() - before}
    sac.begin_cold()
    graph = graph_of(sac.step)
    figures["sac_first_step_ms"] = replay_us(graph, sac.begin_cold) / 1e3
    for count in misses:
        sac.warm()
        figures[f"sac_step_ms_{count}_misses"] = replay_us(graph, partial(sac.draw, count)) / 1e3
        figures[f"sac_step_bytes_{count}_misses"] = DEEPSEEK_LAYERS * count * store.layout.row_bytes
    return figures


def resident_figures(store: RegisteredStore, context_tokens: int) -> dict[str, float]:
    """The whole prefix copied by the copy engine, then steps over it in HBM."""
    layout = store.layout
    before = torch.cuda.memory_allocated()
    rows = torch.empty((DEEPSEEK_LAYERS, 1, context_tokens, layout.row_bytes), dtype=torch.uint8, device=DEVICE)
    figures: dict[str, float] = {"resident_hbm_bytes": torch.cuda.memory_allocated() - before}
    source = host_rows(store, DEEPSEEK_LAYERS * context_tokens).view(rows.shape)
    copy_ms = timed_ms(lambda: rows.copy_(source, non_blocking=True), repeats=5)
    shape = SimpleNamespace(num_requests=1, top_k=DEEPSEEK_TOP_K, capacity=context_tokens - 1)
    attention = SlotAttention(SimpleNamespace(shape=shape, layout=layout, rows=rows, device=DEVICE), HEADS)
    slots = torch.randint(0, context_tokens, (DEEPSEEK_LAYERS, 1, DEEPSEEK_TOP_K), device=DEVICE).to(torch.int32)
    asked = queries()

    def step() -> None:
        for layer in range(DEEPSEEK_LAYERS):
            attention.attend(layer, *asked, slots[layer], softmax_scale())

    figures["resident_step_ms"] = replay_us(graph_of(step)) / 1e3
    figures["full_prefix_copy_ms"] = copy_ms
    figures["full_prefix_bytes"] = rows.numel()
    figures["indexer_key_bytes"] = DEEPSEEK_LAYERS * context_tokens * INDEX_KEY_BYTES
    return figures


def host_rows(store: RegisteredStore, num_rows: int) -> torch.Tensor:
    """The first rows of the pool as a tensor of the CPU over the registered memory, for the copy engine."""
    size_bytes = num_rows * store.layout.stride_bytes
    memory = (ctypes.c_uint8 * size_bytes).from_address(store.store.rows_address)
    return torch.from_numpy(np.ctypeslib.as_array(memory)).view(num_rows, store.layout.stride_bytes)


def timed_ms(body: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        body()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[1:])

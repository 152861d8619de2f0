"""Swap-in of a batch, timed: CUDA graphs of one launch per layer, medians of replays, each with other rows and a cold L2."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from gpu_pools import BenchBatch

from sac_runtime.gpu.swap import CudaSwap, TritonSwap

WARM_UPS, REPLAYS = 2, 7
MISSES = (0, 2, 64, 128, 256, 410, 2048)
BATCHES = (1, 8, 32, 64, 100)


def graph_of(body: Callable[[], None]) -> torch.cuda.CUDAGraph:
    body()  # compiles, outside the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph


def replay_us(graph: torch.cuda.CUDAGraph, before: Callable[[], None] = lambda: None, replays: int = REPLAYS) -> float:
    """Median microseconds of a replay."""
    times = []
    for _ in range(WARM_UPS + replays):
        before()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times[WARM_UPS:])


def swap_us(batch: BenchBatch, swap: CudaSwap | TritonSwap, plan_only: bool = False) -> float:
    """Microseconds of one layer of one step, its rows checked afterwards."""
    step = swap.plan if plan_only else swap.fetch

    def layers() -> None:
        for layer in range(batch.pool.num_layers):
            step(layer, batch.topk[layer], batch.counts, batch.lengths, batch.first_row(layer))

    batch.begin()
    graph = graph_of(layers)
    us = replay_us(graph, batch.begin) / batch.pool.num_layers
    if not plan_only:
        batch.require_right_rows()
    return us


@contextmanager
def freed() -> Iterator[None]:
    """Give the device's memory back at the end."""
    yield
    torch.cuda.empty_cache()

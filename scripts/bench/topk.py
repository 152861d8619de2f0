"""Exact top-k of 2048 out of 128K scores: the native library against torch.topk and numpy.argpartition, one thread."""

import sys
from itertools import cycle

import numpy as np
import torch
from arms import Bound, medians_us, parser, report

from sac_runtime.fetch.topk import top_k

LENGTH, K = 131072, 2048


def draws() -> dict[str, list[np.ndarray]]:
    """Scores as an indexer gives them (a sum of weighted relus), and as a sample may misjudge them."""
    random = np.random.default_rng(0)
    relus = [
        (random.standard_normal(64)[:, None] * np.maximum(random.standard_normal((64, LENGTH)), 0)).sum(0)
        for _ in range(5)
    ]
    rising = [np.arange(LENGTH) + random.random() for _ in range(5)]
    few = [random.integers(0, 8, LENGTH) for _ in range(5)]
    return {
        name: [each.astype(np.float32) for each in kind]
        for name, kind in {"indexer scores": relus, "rising scores": rising, "eight values": few}.items()
    }


def main() -> int:
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    arms = {}
    for name, scores in draws().items():
        ours, tensors, arrays = cycle(scores), cycle(map(torch.from_numpy, scores)), cycle(scores)
        arms[f"{name}: native"] = lambda ours=ours: top_k(next(ours), K)
        arms[f"{name}: torch.topk"] = lambda tensors=tensors: torch.topk(next(tensors), K)
        arms[f"{name}: numpy.argpartition"] = lambda arrays=arrays: np.argpartition(next(arrays), -K)
    us = medians_us(arms, arguments.rounds)
    bounds = [
        Bound(f"{name}: native / torch.topk", us[f"{name}: native"] / us[f"{name}: torch.topk"], 0.3)
        for name in draws()
    ]
    return report(arguments, us, "us", bounds)


if __name__ == "__main__":
    sys.exit(main())

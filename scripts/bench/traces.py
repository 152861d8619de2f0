"""What synthetic traces reach beside their closed forms and the published figures, and what they cost.

About a minute for 61 layers and 1000 steps: python scripts/bench/traces.py [--context 131072] [--layers 61] [--steps 1000]
"""

import argparse
import json
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from sac_runtime.traces.format import write_trace
from sac_runtime.traces.replay import PlanOnly, Replay
from sac_runtime.traces.synthetic import SyntheticSpec, generate, published_touched_tokens

CAPACITIES = (2048, 4096, 6144, 8192)
WARM_STEPS = 100  # left out of the misses: the first fill is no steady state


def main() -> None:
    arguments = _arguments()
    spec = SyntheticSpec.published(arguments.context, num_layers=arguments.layers)
    figures = _cost(spec) | _reached(spec, arguments.steps)
    for name, (reached, expected) in figures.items():
        print(f"{name:<36} {reached:10.3f} {'' if expected is None else f'{expected:10.3f}'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def _cost(spec: SyntheticSpec) -> dict[str, tuple[float, float | None]]:
    steps = generate(spec, 20)
    next(steps)  # sets the layers up
    start_ns = time.perf_counter_ns()
    kept = list(steps)
    generate_ms = (time.perf_counter_ns() - start_ns) / len(kept) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "short.trace"
        num_steps = write_trace(path, spec.header(), islice(generate(spec, 20), 10))
        bytes_per_entry = path.stat().st_size / (num_steps * len(spec.overlaps) * spec.top_k)
    return {"generate, ms per step": (generate_ms, None), "file, bytes per entry": (bytes_per_entry, None)}


def _reached(spec: SyntheticSpec, num_steps: int) -> dict[str, tuple[float, float | None]]:
    """Figure -> what the trace reached, and its closed form; touched tokens beside Fig 4 as well."""
    num_layers = len(spec.overlaps)
    models = [spec.layer(layer) for layer in range(num_layers)]
    replays = {slots: Replay(spec.header(), [PlanOnly.of(spec.header(), slots)]) for slots in CAPACITIES}
    warm = np.zeros((len(CAPACITIES), num_layers))
    touched = np.zeros((num_layers, spec.context_tokens + num_steps), np.bool_)
    before = np.zeros_like(touched)
    kept = np.zeros(num_layers)
    for step in generate(spec, num_steps):
        for layer, tokens in enumerate(step.topk[0]):
            kept[layer] += np.count_nonzero(before[layer, tokens])
            before[layer] = False
            before[layer, tokens] = touched[layer, tokens] = True
        for replay in replays.values():
            replay.step(step)
        if step.index + 1 == WARM_STEPS:
            warm[:] = _misses(replays)
    overlaps = kept / (num_steps - 1) / spec.top_k
    misses = (_misses(replays) - warm) / (num_steps - WARM_STEPS)
    figures = {f"overlap, layer {layer}": (overlaps[layer], spec.overlaps[layer]) for layer in (0, 1, num_layers // 2)}
    expected_touched = float(np.mean([model.expected_touched(num_steps) for model in models]))
    figures["touched tokens"] = (float(touched.sum(axis=1).mean()), expected_touched)
    figures["touched tokens in 1000 steps, Fig 4"] = (published_touched_tokens(spec.context_tokens, spec.top_k), None)
    for slots, of_layers in zip(CAPACITIES, misses, strict=True):
        expected = [model.expected_misses(slots) for model in models]
        for name, pick in (("mean", np.mean), ("least layer", np.min), ("most layer", np.max)):
            figures[f"misses per step, {slots} slots, {name}"] = (float(pick(of_layers)), float(pick(expected)))
    return figures


def _misses(replays: dict[int, Replay]) -> np.ndarray:
    """(capacities, layers)"""
    return np.array([[counters.misses for counters in replay.counters] for replay in replays.values()], np.float64)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", type=int, default=131072)
    parser.add_argument("--layers", type=int, default=61)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="write the figures here too: name -> [reached, closed form]")
    return parser.parse_args()


if __name__ == "__main__":
    main()

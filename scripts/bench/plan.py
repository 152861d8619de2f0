"""Planning a step of 2048 entries in a hot buffer of 6144 slots at 128K tokens, by how much consecutive steps share.

61 layers take turns, so that each finds its state as cold as in a decode.
"""

import sys

import numpy as np
from arms import Bound, medians_us, parser, report

from sac_runtime.fetch.hot_buffer import HotBuffer
from sac_runtime.rows.layout import IntArray

LAYERS, CONTEXT, TOP_K, CAPACITY = 61, 131072, 2048, 6144
SHARED = (1.0, 0.95, 0.8, 0.5, 0.0)  # of two consecutive steps' entries


class Decode:
    """Buffers of all layers, and their next steps drawn beforehand in rounds."""

    def __init__(self, shared: float, rounds: int) -> None:
        random = np.random.default_rng(round(shared * 100))
        self.buffers = [HotBuffer(CAPACITY, TOP_K) for _ in range(LAYERS)]
        self.steps = [self._steps(random, shared, 2 + (rounds + 1) // LAYERS) for _ in range(LAYERS)]
        self.turn = 0
        for buffer, steps in zip(self.buffers, self.steps, strict=True):
            buffer.plan(steps[0], CONTEXT)

    @staticmethod
    def _steps(random: np.random.Generator, shared: float, num_steps: int) -> list[IntArray]:
        steps = [random.permutation(CONTEXT)[:TOP_K]]
        while len(steps) < num_steps:
            kept = random.permutation(steps[-1])[: round(shared * TOP_K)]
            fresh = np.setdiff1d(random.permutation(CONTEXT)[: 2 * TOP_K], kept)
            steps.append(np.sort(np.concatenate([kept, random.permutation(fresh)[: TOP_K - kept.size]])))
        return steps

    def plan_next(self) -> None:
        step, layer = divmod(self.turn, LAYERS)
        self.buffers[layer].plan(self.steps[layer][1 + step], CONTEXT)
        self.turn += 1


def main() -> int:
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    decodes = {f"{shared:.0%} shared": Decode(shared, arguments.rounds) for shared in SHARED}
    us = medians_us({name: decode.plan_next for name, decode in decodes.items()}, arguments.rounds)
    bounds = [Bound(f"plan, {name}, us", value, 60.0) for name, value in us.items()]
    return report(arguments, us, "us", bounds)


if __name__ == "__main__":
    sys.exit(main())

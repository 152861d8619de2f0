"""One decode step of 61 layers at 128K tokens on local memory: what planning and accounting add to its gathers.

Per layer a step plans, gathers the misses into their slots, places the newest row and writes it back; scores and attention
are left out. Figures are 61 times the median layer. Steps that share less with the one before gather more rows; the
overhead hardly changes with that, so its share does.
"""

import sys
import time

import numpy as np
from arms import Bound, parser, report

from sac_runtime.fetch import FetchConfig, Home, Request
from sac_runtime.layout import IntArray, KvLayout, LayerFirst
from sac_runtime.store import MappedStore

LAYERS, CONTEXT, TOP_K, CAPACITY = 61, 131072, 2048, 6144
WARM_UP_ROUNDS = 3
SHARED = (0.0, 0.5, 0.9)  # of two consecutive steps' entries


class Decode:
    """A request whose steps' choices are drawn beforehand, one list of entries a layer."""

    def __init__(self, home: Home, shared: float) -> None:
        self.random = np.random.default_rng(round(100 * shared))
        self.shared = shared
        self.request = Request(home, FetchConfig(LAYERS, TOP_K, CAPACITY), CONTEXT, CONTEXT + 1000)
        self.chosen = [self.random.permutation(CONTEXT)[:TOP_K] for _ in range(LAYERS)]
        self.row = np.zeros(home.store.layout.row_bytes, np.uint8)
        self.request.slots[:] = 0  # its pages exist before anything is timed

    def step(self) -> list[tuple[int, int, int]]:
        """Per layer: elapsed ns, ns of them within the store's gather, and misses."""
        self.chosen = [self._next(each) for each in self.chosen]
        self.request.begin_step()
        return [self._layer(layer) for layer in range(LAYERS)]

    def _layer(self, layer: int) -> tuple[int, int, int]:
        start_ns = time.perf_counter_ns()
        plan = self.request.plan(layer, self.chosen[layer])
        gather_ns = self.request.gather(layer, plan)
        self.request.place_newest(layer, plan, self.row)
        self.request.write_back(layer, self.row)
        return time.perf_counter_ns() - start_ns, gather_ns, plan.misses

    def _next(self, last: IntArray) -> IntArray:
        kept = self.random.permutation(last)[: round(self.shared * TOP_K)]
        fresh = np.setdiff1d(self.random.integers(0, CONTEXT, 2 * TOP_K), kept)
        return np.sort(np.concatenate([kept, self.random.permutation(fresh)[: TOP_K - kept.size]]))


def main() -> int:
    arguments_parser = parser(__doc__.splitlines()[0])
    arguments_parser.set_defaults(rounds=15)
    arguments = arguments_parser.parse_args()
    placement = LayerFirst(LAYERS, CONTEXT + 1000)
    figures, bounds = {}, []
    with MappedStore.anonymous(KvLayout.fp8(), placement.num_rows) as store:
        for layer in range(LAYERS):
            store.write_rows(placement.rows(layer, np.arange(CONTEXT)), np.zeros((CONTEXT, 656), np.uint8))
        decodes = {shared: Decode(Home(store, placement), shared) for shared in SHARED}
        samples: dict[float, list[tuple[int, int, int]]] = {shared: [] for shared in SHARED}
        for round_number in range(-WARM_UP_ROUNDS, arguments.rounds):
            for shared, decode in decodes.items():
                layers = decode.step()
                samples[shared] += layers if round_number >= 0 else []
    for shared, layers in samples.items():
        step_ns, gather_ns, misses = LAYERS * np.median(np.array(layers), axis=0)
        name = f"{shared:.0%} shared, {misses / LAYERS:.0f} misses a layer"
        figures |= {f"{name}: step": step_ns / 1000, f"{name}: its gathers": gather_ns / 1000}
        bounds.append(Bound(f"{name}: step / gathers", step_ns / gather_ns, 1.3))
    return report(arguments, figures, "us", bounds)


if __name__ == "__main__":
    sys.exit(main())

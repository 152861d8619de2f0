"""One decode step of 61 layers at 128K tokens on local memory: what planning and accounting add to its gathers.

Per layer a step plans, gathers the misses into their slots and places the newest row; at its end the new rows are written back.
Scores and attention are left out. Steps that share less with the one before gather more rows; the overhead hardly changes
with that, so its share does.
"""

import sys
import time

import numpy as np
from arms import Bound, parser, report, require_huge_pages

from sac_runtime.fetch.request import FetchConfig, RequestKv
from sac_runtime.memory.backing import Backing
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import IntArray, KvLayout
from sac_runtime.rows.placement import LayerFirst

LAYERS, CONTEXT, TOP_K, CAPACITY = 61, 131072, 2048, 6144
WARM_UP_ROUNDS = 3
SHARED = (0.0, 0.5, 0.9)  # of two consecutive steps' entries


class Decode:
    """A request whose steps' choices are drawn beforehand, one list of entries per layer."""

    def __init__(self, home: Backing, shared: float) -> None:
        self.random = np.random.default_rng(round(100 * shared))
        self.shared = shared
        self.request = RequestKv(home, FetchConfig(LAYERS, TOP_K, CAPACITY), CONTEXT, CONTEXT + 1000)
        self.chosen = [self.random.permutation(CONTEXT)[:TOP_K] for _ in range(LAYERS)]
        self.row = np.zeros(home.store.layout.row_bytes, np.uint8)
        self.request.slots[:] = 0  # its pages exist before anything is timed

    def step(self) -> tuple[int, int, float]:
        """Elapsed ns, ns of them within the store's gathers, and misses per layer."""
        self.chosen = [self._next(each) for each in self.chosen]
        gather_ns = misses = 0
        start_ns = time.perf_counter_ns()
        self.request.begin_step()
        for layer, chosen in enumerate(self.chosen):
            plan, layer_gather_ns = self.request.fetch(layer, chosen)
            gather_ns += layer_gather_ns
            self.request.place_newest(layer, plan, self.row)
            misses += plan.misses
        self.request.write_back()
        return time.perf_counter_ns() - start_ns, gather_ns, misses / LAYERS

    def _next(self, last: IntArray) -> IntArray:
        kept = self.random.permutation(last)[: round(self.shared * TOP_K)]
        fresh = np.setdiff1d(self.random.integers(0, CONTEXT, 2 * TOP_K), kept)
        return np.sort(np.concatenate([kept, self.random.permutation(fresh)[: TOP_K - kept.size]]))


def main() -> int:
    arguments_parser = parser(__doc__.splitlines()[0])
    arguments_parser.set_defaults(rounds=45)
    arguments = arguments_parser.parse_args()
    placement = LayerFirst(LAYERS, CONTEXT + 1000)
    figures, bounds = {}, []
    with MappedStore.anonymous(KvLayout.fp8(), placement.num_rows) as store:
        for layer in range(LAYERS):
            store.write_rows(placement.rows(layer, np.arange(CONTEXT)), np.zeros((CONTEXT, 656), np.uint8))
        require_huge_pages(store)
        decodes = {shared: Decode(Backing(store, placement), shared) for shared in SHARED}
        samples: dict[float, list[tuple[int, int, float]]] = {shared: [] for shared in SHARED}
        for round_number in range(-WARM_UP_ROUNDS, arguments.rounds):
            for shared, decode in decodes.items():
                sample = decode.step()
                samples[shared] += [sample] if round_number >= 0 else []
    for shared, steps in samples.items():
        step_ns, gather_ns, misses = np.array(steps).T
        name = f"{shared:.0%} shared, {np.median(misses):.0f} misses per layer"
        figures |= {f"{name}: step": np.median(step_ns) / 1000, f"{name}: its gathers": np.median(gather_ns) / 1000}
        bounds.append(Bound(f"{name}: step / gathers", float(np.median(step_ns / gather_ns)), 1.3))
    return report(arguments, figures, "us", bounds)


if __name__ == "__main__":
    sys.exit(main())

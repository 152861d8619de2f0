"""What row checks cost a gather: 2048 random rows out of 2 GiB of huge pages, plain, checked, and checked without the CPU's crc32.

One thread, pinned; the plain arm reads the same rows of the same memory without looking at their checks. The bound is what the
figures are held to: a gather of checked rows that no cache holds takes at most 2.5 times as long.
"""

import os
import sys
import threading
from collections.abc import Callable

import numpy as np
from arms import Bound, medians_us, parser, report, require_huge_pages
from gather import CALLER_CPU, NUM_ROWS, STORE_BYTES, draws

from sac_runtime.memory.checked import CheckedStore
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.memory.store import KvStore
from sac_runtime.rows.layout import KvLayout

BATCH = 4096


def filled(layout: KvLayout) -> MappedStore:
    store = MappedStore.anonymous(layout.carrier, STORE_BYTES // layout.stride_bytes)
    checked = CheckedStore(store, layout)
    values = np.random.default_rng(0).integers(0, 256, (BATCH, layout.row_bytes), dtype=np.uint8)
    for first in range(0, store.num_rows, BATCH):
        rows = np.arange(first, min(first + BATCH, store.num_rows))
        checked.write_rows(rows, values[: rows.size])
    require_huge_pages(store)
    return store


def gathering(store: KvStore) -> Callable[[], object]:
    rows, out = draws(store.num_rows), np.zeros((NUM_ROWS, store.layout.row_bytes), np.uint8)
    return lambda: store.read_rows(next(rows), out)


def main() -> int:
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    os.sched_setaffinity(threading.get_native_id(), {CALLER_CPU})
    figures: dict[str, float] = {}
    bounds: list[Bound] = []
    for name, layout in (("656 B", KvLayout.fp8().checked()), ("1152 B", KvLayout.bf16().checked())):
        with filled(layout) as store:
            arms = {
                "plain": gathering(store),
                "checked": gathering(CheckedStore(store, layout)),
                "checked, without the instruction": gathering(CheckedStore(store, layout, plain=True)),
            }
            us = medians_us(arms, arguments.rounds)
        figures |= {f"{name}: {arm}": value for arm, value in us.items()}
        bounds.append(Bound(f"{name}: checked / plain", us["checked"] / us["plain"], 2.5))
    return report(arguments, figures, "us", bounds)


if __name__ == "__main__":
    sys.exit(main())

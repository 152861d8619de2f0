"""Gather of 2048 random rows out of 2 GiB of huge pages: the native library against torch.index_select and numpy.take.

One thread, pinned, a fresh draw of rows in every call; then the same with one pinned helper thread. numpy and torch read
rows that lie without gaps, since both would first copy a padded table whole. "reading alone" gathers all rows into one slot, which
stays in the first cache: no gather that loads each line can be faster, so it says how near a bound can be reached on this CPU.
`--sweep` times prefetch distances instead: DEFAULT_PREFETCH_ROWS comes from it.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count, cycle

import numpy as np
import torch
from arms import Bound, medians_us, parser, report, require_huge_pages

from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import KvLayout

STORE_BYTES = 2 << 30
NUM_ROWS = 2048
SEEDS = count()
DRAWS = 499  # of rows: no cache holds what the last round of the same draw left behind
CALLER_CPU, *_, HELPER_CPU = sorted(os.sched_getaffinity(0))
SWEEP_ROWS = (0, 1, 2, 4, 8, 16, 32)


def filled_store(layout: KvLayout, **options: object) -> MappedStore:
    store = MappedStore.anonymous(layout, -(-STORE_BYTES // layout.stride_bytes), **options)
    block = np.random.default_rng(0).integers(0, 256, 1 << 24, dtype=np.uint8)
    for offset in range(0, store.size_bytes, block.size):
        store.write_bytes(offset, block[: store.size_bytes - offset])
    require_huge_pages(store)
    return store


def draws(num_rows: int) -> Iterator[np.ndarray]:
    """Endless sets of rows; two arms never share one, or the second would find its rows in the cache."""
    random = np.random.default_rng(next(SEEDS))
    return cycle([random.integers(0, num_rows, NUM_ROWS) for _ in range(DRAWS)])


def native_arm(store: MappedStore, out: np.ndarray) -> Callable[[], object]:
    rows = draws(store.num_rows)
    return lambda: store.read_rows(next(rows), out)


def reading_arm(store: MappedStore, out: np.ndarray) -> Callable[[], object]:
    rows, one_slot = draws(store.num_rows), np.zeros(NUM_ROWS, np.int64)
    return lambda: store.read_rows_into_slots(next(rows), out[:1], one_slot)


def library_arms(store: MappedStore, out: np.ndarray) -> dict[str, Callable[[], object]]:
    """numpy and torch over the same memory as a table of (num_rows, row_bytes)."""
    size_bytes = store.num_rows * store.layout.row_bytes
    memory = (ctypes.c_uint8 * size_bytes).from_address(store.address)
    table = np.ctypeslib.as_array(memory).reshape(store.num_rows, -1)
    rows, torch_table, torch_out = draws(store.num_rows), torch.from_numpy(table), torch.from_numpy(out)
    return {
        "numpy.take": lambda: np.take(table, next(rows), axis=0, out=out, mode="clip"),
        "torch.index_select": lambda: torch.index_select(torch_table, 0, torch.from_numpy(next(rows)), out=torch_out),
    }


def empty_out(layout: KvLayout) -> np.ndarray:
    return np.zeros((NUM_ROWS, layout.row_bytes), np.uint8)


def against_libraries(name: str, layout: KvLayout, rounds: int) -> tuple[dict[str, float], list[Bound]]:
    with filled_store(layout) as store:
        out = empty_out(layout)
        arms = {"native": native_arm(store, out), "reading alone": reading_arm(store, out)}
        us = medians_us({**arms, **library_arms(store, out)}, rounds)
    bounds = [
        Bound(f"{name}: native / {other}", us["native"] / us[other], 0.45)
        for other in ("numpy.take", "torch.index_select")
    ]
    return {f"{name}: {arm}": value for arm, value in us.items()}, bounds


def two_threads(name: str, layout: KvLayout, rounds: int) -> tuple[dict[str, float], list[Bound]]:
    with filled_store(layout) as alone, filled_store(layout, gather_cpus=(HELPER_CPU,)) as paired:
        out = empty_out(layout)
        arms = {f"{name}: 1 thread": native_arm(alone, out), f"{name}: 2 threads": native_arm(paired, out)}
        us = medians_us(arms, rounds)
    speed_up = us[f"{name}: 1 thread"] / us[f"{name}: 2 threads"]
    return us, [Bound(f"{name}: 2 threads / 1 thread", 1 / speed_up, 1 / 1.5)]


def sweep(layout: KvLayout, rounds: int) -> dict[str, float]:
    with filled_store(layout) as store:

        def arm(prefetch_rows: int) -> Callable[[], object]:
            gather = native_arm(store, empty_out(layout))

            def run() -> None:
                store.prefetch_rows = prefetch_rows
                gather()

            return run

        return medians_us(
            {f"stride {layout.stride_bytes} B: {ahead} rows ahead": arm(ahead) for ahead in SWEEP_ROWS}, rounds
        )


def main() -> int:
    arguments_parser = parser(__doc__.splitlines()[0])
    arguments_parser.add_argument("--sweep", action="store_true", help="time prefetch distances instead")
    arguments = arguments_parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(threading.get_native_id(), {CALLER_CPU})
    figures: dict[str, float] = {}
    bounds: list[Bound] = []
    if arguments.sweep:
        for layout in (KvLayout.fp8(), KvLayout.fp8(padded=False), KvLayout.bf16()):
            figures |= sweep(layout, arguments.rounds)
        return report(arguments, figures, "us", bounds)
    for name, layout in (("656 B", KvLayout.fp8(padded=False)), ("1152 B", KvLayout.bf16())):
        for comparison in (against_libraries, two_threads):
            us, held = comparison(name, layout, arguments.rounds)
            figures |= us
            bounds += held
    return report(arguments, figures, "us", bounds)


if __name__ == "__main__":
    sys.exit(main())

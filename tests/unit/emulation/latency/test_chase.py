"""Dependent reads along a chain."""

import numpy as np
import pytest

from emulation.errors import InputError
from emulation.latency.chase import chase, write_chain
from emulation.timing.clock import VirtualClock, WallClock
from emulation.timing.path import default_path
from emulation.timing.profile import load_profile
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import KvLayout

NUM_ROWS = 4096


@pytest.fixture
def store():
    with MappedStore.anonymous(KvLayout.fp8(), NUM_ROWS, huge_pages=False, metadata_bytes=4096) as mapped:
        yield mapped


def path(name):
    return default_path(load_profile(name))


def test_a_chase_takes_the_profile_s_latency_per_read(store):
    write_chain(store, seed=4)
    for name in ("cxl-switched-220", "cxl-switched-750"):
        assert chase(store, path(name), VirtualClock(), 0, 1000) == load_profile(name).read_latency_ns
    assert chase(store, path("cxl-switched-750"), WallClock(), 0, 2000) >= 745
    for row, num_reads in ((NUM_ROWS, 1), (-1, 1), (0, 0)):
        with pytest.raises(InputError, match=f"row={row}, num_reads={num_reads} need a store that holds the row"):
            chase(store, path("cxl-switched-750"), WallClock(), row, num_reads)


def test_a_chase_over_rows_that_hold_no_chain_is_refused_and_reads_nothing_outside(store):
    store.write_rows(np.arange(NUM_ROWS), np.random.default_rng(1).integers(0, 256, (NUM_ROWS, 656), np.uint8))
    with pytest.raises(InputError, match="write a chain into the store first"):
        chase(store, path("cxl-switched-750"), WallClock(), 0, 10)


def test_a_chain_visits_every_row_once(store):
    write_chain(store, seed=5)
    rows = np.empty((NUM_ROWS, 656), np.uint8)
    store.read_rows(np.arange(NUM_ROWS), rows)
    following = rows[:, :8].copy().view(np.int64)[:, 0]
    row, seen = 0, set()
    while row not in seen:
        seen.add(row)
        row = following[row]
    assert len(seen) == NUM_ROWS

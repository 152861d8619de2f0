"""The pool's directory at a million published blocks: opening it, publishing into it, looking up in it; one process.

Blocks are as small as they can be (one layer of one token), so that bookkeeping is what shows; their rows are flushed all the same.
A batch is what a prompt of 128K tokens in blocks of 64 makes: 2048 blocks. One at a time is the worst that a caller can do.
"""

import sys
from collections.abc import Callable
from itertools import cycle

import numpy as np
from arms import Bound, medians_us, parser, report

from sac_runtime.memory.mapped import MappedStore
from sac_runtime.pool.block_hash import chain_hashes
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import KvLayout

NUM_PUBLISHED = 1_000_000
BATCH = 2048
GEOMETRY = PoolGeometry(
    KvLayout.fp8(), num_hosts=2, num_layers=1, block_tokens=1, blocks_per_host=NUM_PUBLISHED + 4 * BATCH
)
MOST_US = 1e6 / 200_000  # a block, published or looked up
MOST_OPEN_US = 200_000


def random_hashes(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, (count, 2), dtype=np.uint64)


def filled_pool(store: MappedStore, hashes: np.ndarray) -> Pool:
    pool = Pool.create(
        store, host=0, num_hosts=2, num_layers=1, block_tokens=1, blocks_per_host=GEOMETRY.blocks_per_host
    )
    pool.publish(pool.allocate(len(hashes)), hashes)
    return pool


def opening(store: MappedStore) -> Callable[[], object]:
    """Join as the other host, which reads the journals and indexes every block."""

    def run() -> None:
        with Pool.open(store, host=1) as pool:
            assert pool.num_published >= NUM_PUBLISHED

    return run


def publishing(pool: Pool, count: int, times: int, published: list[np.ndarray]) -> Callable[[], object]:
    """Allocate and publish; the blocks go on `published`, for the retiring arm of the same round."""
    hashes = cycle([random_hashes(count, seed) for seed in range(100, 116)])

    def run() -> None:
        for _ in range(times):
            blocks = pool.allocate(count)
            pool.publish(blocks, next(hashes))
            published.append(blocks)

    return run


def retiring(pool: Pool, published: list[np.ndarray]) -> Callable[[], object]:
    def run() -> None:
        pool.retire(np.concatenate(published))
        published.clear()

    return run


def looking_up(pool: Pool, hashes: np.ndarray, count: int, times: int) -> Callable[[], object]:
    draw = np.random.default_rng(7)

    def run() -> None:
        for start in draw.integers(0, len(hashes) - count, times).tolist():
            pool.lookup(hashes[start : start + count])

    return run


def leasing(pool: Pool, hashes: np.ndarray) -> Callable[[], object]:
    """What a request does: begin a lease, find its prefix, end the lease."""
    draw = np.random.default_rng(8)

    def run() -> None:
        start = int(draw.integers(0, len(hashes) - BATCH))
        with pool.lease() as lease:
            assert len(lease.prefix(hashes[start : start + BATCH])) == BATCH

    return run


def naming() -> Callable[[], object]:
    tokens = np.random.default_rng(9).integers(0, 129280, BATCH * 64)
    return lambda: chain_hashes(tokens, 64)


def main() -> int:
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    shuffled = random_hashes(NUM_PUBLISHED, 0)
    with (
        MappedStore.anonymous(GEOMETRY.layout, GEOMETRY.num_rows, metadata_bytes=GEOMETRY.metadata_bytes) as store,
        filled_pool(store, shuffled) as pool,
    ):
        kept = shuffled[np.random.default_rng(1).permutation(NUM_PUBLISHED)]
        us = medians_us({"open 1M published blocks": opening(store)}, max(11, arguments.rounds // 10))
        published: list[np.ndarray] = []
        arms = {
            "publish, 2048 at once": publishing(pool, BATCH, 1, published),
            "publish, 100 one at a time": publishing(pool, 1, 100, published),
            "retire 2148": retiring(pool, published),
            "look up, 2048 at once": looking_up(pool, kept, BATCH, 1),
            "look up, 100 one at a time": looking_up(pool, kept, 1, 100),
            "lease and look up 2048": leasing(pool, kept),
            "name 2048 blocks of 64 tokens": naming(),
        }
        us |= medians_us(arms, arguments.rounds)
    bounds = [
        Bound("open, us", us["open 1M published blocks"], MOST_OPEN_US),
        Bound("publish, 2048 at once, us per block", us["publish, 2048 at once"] / BATCH, MOST_US),
        Bound("look up, 2048 at once, us per block", us["look up, 2048 at once"] / BATCH, MOST_US),
    ]
    singly = {f"{name}: each": us[name] / 100 for name in us if "one at a time" in name}
    return report(arguments, us | singly, "us", bounds)


if __name__ == "__main__":
    sys.exit(main())

"""What the best kernel at hand took for the same work, and the bounds that follow. Numbers with their source; measures nothing.

SGLang HiSparse 0.5.23, its fused kernel (one block of 960 threads per request), top-k 2048, 4096 slots, microseconds per launch on
one H100 80GB HBM3, 2026-11-25: pool A is 12 layers of 1 GB with 64-token pages scattered and the same rows in each replay, pool B 5
layers of 11 GB with one extent per sequence and other rows. Its package was not installed where these bounds are checked."""

from arms import Bound

PEER = "SGLang HiSparse 0.5.23, H100, 2026-11-25"
PEER_US = {
    ("A", 1152): {
        (1, 0): 19.3, (1, 2): 23.7, (1, 128): 38.0, (1, 256): 52.7, (1, 410): 73.9, (1, 2048): 284,
        (8, 0): 22.8, (8, 2): 25.4, (8, 128): 54.3, (8, 410): 125, (32, 64): 85.8, (32, 128): 144,
        (64, 0): 24.0, (64, 2): 28.3, (64, 64): 144, (64, 128): 244, (64, 256): 433, (64, 410): 658, (64, 2048): 3118,
        (100, 0): 25.1, (100, 2): 28.4, (100, 128): 363, (100, 410): 1005,
    },
    ("A", 656): {
        (1, 0): 19.3, (1, 2): 23.7, (1, 128): 38.1, (1, 256): 51.0, (1, 410): 70.7, (1, 2048): 270,
        (8, 0): 22.9, (8, 2): 25.3, (8, 128): 48.8, (8, 410): 104, (32, 64): 65.7, (32, 128): 116,
        (64, 0): 23.9, (64, 2): 28.0, (64, 64): 114, (64, 128): 179, (64, 256): 301, (64, 410): 452, (64, 2048): 2018,
        (100, 0): 25.2, (100, 2): 28.2, (100, 128): 252, (100, 410): 689,
    },
    ("B", 1152): {
        (1, 128): 39.1, (1, 410): 75, (8, 128): 59, (8, 410): 128, (64, 2): 29.3,
        (64, 128): 322, (64, 256): 593, (64, 410): 900,
    },
    ("B", 656): {(64, 2): 28.7, (64, 128): 305, (64, 256): 557, (64, 410): 829},
}  # fmt: skip
OF_PEER = {
    "A": {
        **{(batch, 0): 0.50 for batch in (1, 8, 64, 100)},
        **{(1, misses): 0.45 for misses in (2, 128, 256, 410)},
        (1, 2048): 0.30,
        (8, 2): 0.50,
        (8, 128): 0.75,
        (8, 410): 0.90,
        (64, 2): 0.60,
        (64, 64): 0.90,
        **{(64, misses): 1.0 for misses in (128, 256, 410, 2048)},
    },
    "B": {(64, 128): 0.88, (64, 256): 0.90, (64, 410): 0.90},
}
OF_LINK = {
    ("A", 1, 2048): 1.6,
    ("A", 64, 128): 1.35,
    ("A", 64, 256): 1.22,
    ("A", 64, 2048): 1.12,
    ("B", 64, 128): 1.65,
}  # rows of 1152 B
OF_US = {("B", 64, 128): 240.0, ("B", 64, 410): 700.0}  # rows of 1152 B


def swap_bounds(pool: str, row_bytes: int, batch: int, misses: int, us: float, link_us: float) -> list[Bound]:
    """Bounds on one swap-in: against the peer, the link and fixed times, as far as there are any."""
    name = f"{pool}, {row_bytes} B, {batch} x {misses}"
    bounds = []
    peer_us, at_most = PEER_US[pool, row_bytes].get((batch, misses)), OF_PEER[pool].get((batch, misses))
    if peer_us is not None and at_most is not None:
        bounds.append(Bound(f"{name}: of the peer", us / peer_us, at_most))
    if row_bytes == 1152 and (pool, batch, misses) in OF_LINK:
        bounds.append(Bound(f"{name}: of the link", us / link_us, OF_LINK[pool, batch, misses]))
    if row_bytes == 1152 and (pool, batch, misses) in OF_US:
        bounds.append(Bound(f"{name}: us", us, OF_US[pool, batch, misses]))
    return bounds

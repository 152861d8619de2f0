"""One host of a soak: a process that publishes, retires and fetches in a pool until it is ended; what it fetches must be the truth.

Knows one shared file and a page of counters; knows nothing of faults, which come from outside. Run as
`python -m emulation.faults.soak_host FOLDER HOST HOSTS SEED`."""

import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sac_runtime.errors import FencedError, HostBusyError, PoolFormatError, PoolFullError, RowCheckError
from sac_runtime.memory.checked import CheckedStore
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.pool.block_hash import BlockHashes, chain_hashes
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.lease import Lease
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import ByteArray, IntArray, KvLayout

COUNTERS = (
    *("progress", "fetches", "absent", "publishes", "retired", "healed", "refused"),
    *("wrong_bytes", "fenced", "unopened", "request"),
)
"""Of each host, int64, in the file `counters`; they outlive the process. request: the last that it published."""

BLOCKS_PER_REQUEST = 2
FETCHES_PER_LEASE = 16
ROWS_PER_FETCH = 4
RECENT_REQUESTS = 6  # fetches ask for one of these
PATIENCE_S = 0.5
LAYOUT = KvLayout.bf16(latent=48, rope=16).checked()


def geometry_for(num_hosts: int) -> PoolGeometry:
    """Of a soak's pool: small, so that blocks are reused and journals come round all the time."""
    return PoolGeometry(LAYOUT, num_hosts, num_layers=2, block_tokens=4, blocks_per_host=24)


def open_store(folder: Path, geometry: PoolGeometry) -> CheckedStore:
    """The soak's memory, made where it is missing."""
    memory = MappedStore.shared(
        folder / "pool",
        layout=LAYOUT.carrier,
        num_rows=geometry.num_rows,
        metadata_bytes=geometry.metadata_bytes,
    )
    return CheckedStore(memory, LAYOUT)


def counters_in(folder: Path, num_hosts: int) -> NDArray[np.int64]:
    """(num_hosts, len(COUNTERS)) int64, shared by all processes of a soak."""
    path = folder / "counters"
    if not path.exists():
        path.write_bytes(bytes(num_hosts * len(COUNTERS) * 8))
    return np.memmap(path, np.int64, "r+", shape=(num_hosts, len(COUNTERS)))


def hashes_of(host: int, request: int, geometry: PoolGeometry) -> BlockHashes:
    """Names of the blocks of the request-th that `host` publishes; requests share nothing."""
    tokens = np.arange(BLOCKS_PER_REQUEST * geometry.block_tokens) + (request << 8)
    return chain_hashes(tokens, geometry.block_tokens, root=bytes([host]))


def contents(name: NDArray[np.uint64], geometry: PoolGeometry) -> ByteArray:
    """What the block of this hash holds, whoever writes it: (num_layers, block_tokens, row_bytes) uint8."""
    shape = (geometry.num_layers, geometry.block_tokens, geometry.layout.row_bytes)
    words = np.arange(np.prod(shape) // 8, dtype=np.uint64)
    mixed = (words + name[0]) * np.uint64(0x9E3779B97F4A7C15) ^ (name[1] + words)
    values: ByteArray = (mixed ^ mixed >> np.uint64(29)).view(np.uint8).reshape(shape)
    return values


@dataclass
class SoakHost:
    """A host at work. counters: its own line."""

    host: int
    geometry: PoolGeometry
    store: CheckedStore
    counters: NDArray[np.int64]
    random: np.random.Generator

    def count(self, name: str, number: int = 1) -> None:
        self.counters[self.host, COUNTERS.index(name)] += number

    def live(self) -> None:
        """Join, work until fenced off, join again; without end."""
        while True:
            try:
                with Pool.open(self.store, host=self.host, patience_s=PATIENCE_S) as pool:
                    self._work(pool)
            except FencedError:
                self.count("fenced")
            except (HostBusyError, PoolFormatError):
                self.count("unopened")
                time.sleep(0.05)

    def _work(self, pool: Pool) -> None:
        while True:
            self.count("progress")
            published = int(self.counters[self.host, COUNTERS.index("request")])
            if published < RECENT_REQUESTS or self.random.random() < 0.2:
                self._publish(pool)
            else:
                self._fetch_under_lease(pool)

    def _publish(self, pool: Pool) -> None:
        number = int(self.counters[self.host, COUNTERS.index("request")]) + 1
        hashes = hashes_of(self.host, number, self.geometry)
        values = np.concatenate([contents(name, self.geometry) for name in hashes], axis=1)
        try:
            pool.put(hashes, values)
        except PoolFullError:
            self.count("retired", len(pool.retire_coldest(int(self.random.integers(1, 8)))))
            return
        self.count("publishes")
        self.count("request")

    def _fetch_under_lease(self, pool: Pool) -> None:
        wrong = fetched = 0
        with pool.lease() as lease:
            for _ in range(FETCHES_PER_LEASE):
                with suppress(RowCheckError):  # counted by the store
                    right = self._fetch(pool, lease)
                    fetched += right is not None
                    wrong += right is False
        self.count("fetches", fetched)  # only if the lease ended well
        self.count("wrong_bytes", wrong)
        self.count("refused", self.store.num_refused)
        self.count("healed", self.store.num_healed)
        self.store.num_refused = self.store.num_healed = 0

    def _fetch(self, pool: Pool, lease: Lease) -> bool | None:
        """Some rows of a recent request of any host; whether they are right, None where nothing is found."""
        owner = int(self.random.integers(self.geometry.num_hosts))
        latest = int(self.counters[owner, COUNTERS.index("request")])
        hashes = hashes_of(owner, latest - int(self.random.integers(RECENT_REQUESTS)), self.geometry)
        blocks = lease.prefix(hashes)
        if not len(blocks):
            self.count("absent")
            return None
        layer = int(self.random.integers(self.geometry.num_layers))
        tokens = self.random.integers(0, len(blocks) * self.geometry.block_tokens, ROWS_PER_FETCH)
        truth = np.concatenate([contents(name, self.geometry)[layer] for name in hashes[: len(blocks)]])[tokens]
        rows, out = pool.rows(blocks, layer)[tokens], np.empty_like(truth)
        self.store.heal = _Recomputed(rows, truth) if self.random.random() < 0.5 else None
        self.store.read_rows(rows, out)
        return bool((out == truth).all())


class _Recomputed:
    """A recompute hook: the rows of one fetch and what they hold."""

    def __init__(self, rows: IntArray, truth: ByteArray) -> None:
        self._truth = dict(zip(rows.tolist(), truth, strict=True))

    def __call__(self, rows: IntArray) -> ByteArray:
        return np.stack([self._truth[row] for row in rows.tolist()])


def main() -> None:
    folder, host, num_hosts, seed = Path(sys.argv[1]), *map(int, sys.argv[2:])
    geometry = geometry_for(num_hosts)
    random = np.random.default_rng([seed, host])
    with open_store(folder, geometry) as store:
        SoakHost(host, geometry, store, counters_in(folder, num_hosts), random).live()


if __name__ == "__main__":
    main()

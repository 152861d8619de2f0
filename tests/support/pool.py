"""A few hosts with caches of their own around one memory, and blocks whose contents follow from their hash.

A pool's tests need no expected bytes beside them: contents(hashes) says what blocks must hold, whoever wrote them."""

from dataclasses import dataclass, field

import numpy as np

from emulation.stores.incoherent import IncoherentStore
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.pool import format as pool_format
from sac_runtime.pool.block_hash import chain_hashes
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import KvLayout

PATIENCE_S = 5.0


class Watch:
    """A clock that stands still until told."""

    def __init__(self):
        self.now_ns = 0

    def __call__(self):
        return self.now_ns

    def sleep(self, seconds):
        self.now_ns += round(seconds * 1e9)


def geometry_of(layout=None, num_hosts=2, num_layers=2, block_tokens=2, blocks_per_host=6, index_key_bytes=0):
    return PoolGeometry(layout or KvLayout.fp8(), num_hosts, num_layers, block_tokens, blocks_per_host, index_key_bytes)


def memory_for(geometry):
    return MappedStore.anonymous(
        geometry.layout, geometry.num_rows, huge_pages=False, metadata_bytes=geometry.metadata_bytes
    )


def create(store, geometry, host=0, **options):
    return Pool.create(
        store,
        host=host,
        num_hosts=geometry.num_hosts,
        num_layers=geometry.num_layers,
        block_tokens=geometry.block_tokens,
        blocks_per_host=geometry.blocks_per_host,
        index_key_bytes=geometry.index_key_bytes,
        **options,
    )


def chain(request, num_blocks, geometry):
    """Hashes of a request's blocks; requests of different numbers share nothing."""
    tokens = np.arange(num_blocks * geometry.block_tokens) + 1000 * request
    return chain_hashes(tokens, geometry.block_tokens)


def contents(hashes, geometry):
    """(L, n * block_tokens, row_bytes): what blocks of these hashes hold, whoever writes them."""
    shape = (geometry.num_layers, geometry.block_tokens, geometry.layout.row_bytes)
    blocks = [np.random.default_rng(int(h[0])).integers(0, 256, shape, dtype=np.uint8) for h in hashes]
    return np.concatenate(blocks, axis=1) if blocks else np.empty((shape[0], 0, shape[2]), np.uint8)


def read(pool, blocks):
    """(L, n * block_tokens, row_bytes): what `pool`'s host sees in these blocks."""
    geometry = pool.geometry
    out = np.empty((geometry.num_layers, len(blocks) * geometry.block_tokens, geometry.layout.row_bytes), np.uint8)
    for layer in range(geometry.num_layers):
        pool.store.read_rows(pool.rows(blocks, layer), out[layer])
    return out


def put(pool, hashes):
    return pool.put(hashes, contents(hashes, pool.geometry))


def require_readable(pool, hashes):
    """All of these are found under a lease, and hold what they should."""
    with pool.lease() as lease:
        blocks = lease.prefix(hashes)
        assert len(blocks) == len(hashes)
        assert (read(pool, blocks) == contents(hashes, pool.geometry)).all()
    return blocks


def require_old_pool_or_new_or_none(memory, old_id, old_hashes):
    """What a creator may leave that replaced pool `old_id`, in which `old_hashes` were published: that pool and all in it, a new
    one that every host can open and use, or no pool at all."""
    if not pool_format.holds_pool(memory):
        return
    geometry, pool_id = pool_format.read_superblock(memory)
    pools = [Pool.open(IncoherentStore(memory), host=host, patience_s=0) for host in range(geometry.num_hosts)]
    if pool_id == old_id:
        require_readable(pools[-1], old_hashes)
    new = chain(2, 1, geometry)
    put(pools[0], new)
    require_readable(pools[-1], new)


@dataclass
class Fleet:
    """A pool in one memory, and per host a cache and a pool."""

    geometry: PoolGeometry = field(default_factory=geometry_of)
    watch: Watch = field(default_factory=Watch)
    wrap: object = IncoherentStore
    pools: dict = field(default_factory=dict)

    def __post_init__(self):
        self.memory = memory_for(self.geometry)
        self.stores = [self.wrap(self.memory) for _ in range(self.geometry.num_hosts)]
        self.pools[0] = create(self.stores[0], self.geometry, clock_ns=self.watch, patience_s=PATIENCE_S)
        for host in range(1, self.geometry.num_hosts):
            self.open(host)

    def open(self, host, store=None, **options):
        options = {"patience_s": PATIENCE_S, "sleep": self.watch.sleep, **options}
        self.pools[host] = Pool.open(store or self.stores[host], host=host, clock_ns=self.watch, **options)
        return self.pools[host]

"""KV blocks in memory that hosts share without coherence: published by one host, found by the hash of their tokens, read by all.

What the room offers. `Pool` is one host's hold on a pool, `Lease` what it reads under, `PoolSequence` one request's tokens in it,
`PoolGeometry` its shape; `chain_hashes` names blocks by their tokens. The protocol in memory is in `format`, `lines` and `journal`.
Importing it needs numpy alone."""

from sac_runtime.pool.arena import BlockState
from sac_runtime.pool.block_hash import BlockHashes, chain_hashes
from sac_runtime.pool.directory import ABSENT
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.hosts import DEFAULT_PATIENCE_S
from sac_runtime.pool.lease import Lease
from sac_runtime.pool.pool import Pool
from sac_runtime.pool.sequence import PoolSequence

__all__ = [
    "ABSENT",
    "DEFAULT_PATIENCE_S",
    "BlockHashes",
    "BlockState",
    "Lease",
    "Pool",
    "PoolGeometry",
    "PoolSequence",
    "chain_hashes",
]

"""Names of KV blocks: a chain of hashes over tokens. Knows tokens, not pools, hosts or rows.

hash(block) = blake2b-128(hash(parent), tokens): equal prefixes get equal names on every host and in every request, and a block's
name vouches for all the tokens before it.

128 bits, since a false match would hand one request the KV of another, silently. With N blocks ever hashed some two of them
collide with probability N^2 / 2^129: 2^-49 after 2^40 blocks. 64 bits would reach 2^-25 with a mere 2^20 blocks in the pool at
once. The hash is a cryptographic one, so a collision cannot be made on purpose in less than about 2^64 trials either."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from sac_runtime.errors import GeometryError
from sac_runtime.rows.doors import require_integers, require_whole
from sac_runtime.rows.layout import IntArray

HASH_BYTES = 16
MOST_ROOT_BYTES = 64  # a key of blake2b

BlockHashes = NDArray[np.uint64]  # (n, 2): low and high word of each hash


def chain_hashes(tokens: IntArray, block_tokens: int, root: bytes = b"", partial: bool = False) -> BlockHashes:
    """Name the blocks of a token sequence, first to last.

    tokens: (T,) int64; root: what the chain starts from, to keep models, adapters or tenants apart (at most 64 B); partial: also
    name the last block where it is not full. Returns (n, 2) uint64, n = T // block_tokens, or rounded up with `partial`.
    Raises GeometryError."""
    require_whole("chain_hashes", "block_tokens", block_tokens, 1)
    if not isinstance(root, bytes):
        raise GeometryError(f"chain_hashes: root is a {type(root).__name__}; it must be bytes")
    if len(root) > MOST_ROOT_BYTES:
        raise GeometryError(f"chain_hashes: root of {len(root)} bytes exceeds {MOST_ROOT_BYTES}; give a digest of it")
    require_integers("chain_hashes", "tokens", tokens)
    encoded = memoryview(np.ascontiguousarray(tokens, dtype="<i8").tobytes())
    step = 8 * block_tokens
    end = len(encoded) if partial else len(encoded) // step * step
    parent = blake2b(b"root", digest_size=HASH_BYTES, key=root).digest()
    names = bytearray()
    for start in range(0, end, step):
        parent = blake2b(parent + encoded[start : start + step], digest_size=HASH_BYTES).digest()
        names += parent
    return np.frombuffer(bytes(names), "<u8").reshape(-1, 2)

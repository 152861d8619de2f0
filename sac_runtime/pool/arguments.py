"""What callers hand to a pool, checked before anything is done with it. Knows shapes and types, not blocks in use or memory."""

import numpy as np

from sac_runtime.errors import GeometryError
from sac_runtime.pool.block_hash import BlockHashes
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.rows.doors import require_array, require_integers, require_whole
from sac_runtime.rows.layout import ByteArray, IntArray


def require_count(count: int) -> None:
    """Raise GeometryError unless `count` is a number of blocks."""
    require_whole("pool", "count", count)


def require_tokens(geometry: PoolGeometry, first_token: int, num_tokens: int, num_blocks: int) -> None:
    """Raise GeometryError unless the sequence that `num_blocks` blocks make up has these tokens."""
    require_whole("pool write", "first_token", first_token, -(1 << 62))
    end = num_blocks * geometry.block_tokens
    if first_token < 0 or first_token + num_tokens > end:
        raise GeometryError(
            f"pool write: tokens {first_token} to {first_token + num_tokens - 1} lie outside "
            f"[0, {end}), the tokens of {num_blocks} blocks"
        )


def require_token(geometry: PoolGeometry, token: int) -> None:
    """Raise GeometryError unless a block has this token."""
    require_whole("pool write", "token", token, -(1 << 62))
    if not 0 <= token < geometry.block_tokens:
        raise GeometryError(
            f"pool write: token={token} lies outside [0, {geometry.block_tokens}), the tokens of a block"
        )


def require_put(geometry: PoolGeometry, name: str, rows: ByteArray | None, num_blocks: int, row_bytes: int) -> None:
    """Raise GeometryError unless `rows` are whole blocks in all layers: (L, num_blocks * block_tokens, row_bytes) uint8."""
    shape = (geometry.num_layers, num_blocks * geometry.block_tokens, row_bytes)
    if rows is None:
        raise GeometryError(f"pool put: {name} is missing; it must be uint8 of shape {shape}")
    require_array("pool put", name, rows, np.uint8, shape)


def require_hashes(hashes: BlockHashes, num_blocks: int) -> None:
    """Raise GeometryError unless there is one hash per block: (num_blocks, 2) uint64."""
    require_array("pool publish", "hashes", hashes, np.uint64, (num_blocks, 2))


def valid_num_tokens(geometry: PoolGeometry, num_tokens: IntArray | None, num_blocks: int) -> IntArray | int:
    """Valid tokens of each block to be published, or of all. num_tokens: (num_blocks,) integers; None: blocks are full.
    Raises GeometryError."""
    most = geometry.block_tokens
    if num_tokens is None:
        return most
    if np.shape(num_tokens) != (num_blocks,) or np.asarray(num_tokens).dtype.kind not in "iu":
        raise GeometryError(f"pool publish: num_tokens={num_tokens} must be {num_blocks} integers, one per block")
    if np.min(num_tokens, initial=1) < 1 or np.max(num_tokens, initial=1) > most:
        raise GeometryError(f"pool publish: num_tokens={num_tokens} must lie in [1, {most}], the block_tokens")
    return num_tokens


def require_blocks_of_pool(geometry: PoolGeometry, blocks: IntArray) -> None:
    """Raise GeometryError unless each number is a block's, of whichever host; ABSENT is none."""
    require_integers("pool", "blocks", blocks)
    if blocks.size and not (blocks.min() >= 0 and blocks.max() < geometry.num_blocks):
        raise GeometryError(f"pool: blocks {blocks} do not all lie in [0, {geometry.num_blocks})")

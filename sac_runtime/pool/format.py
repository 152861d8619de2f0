"""What a pool looks like in memory: its geometry, where each part lies, the superblock, and the refusal of a foreign one.

Knows sizes and offsets, not blocks in use, hosts alive or time.

    0            superblock
    4096         for each host: two state lines, then one fence mark by every host
    journals     for each host: journal_slots lines of 64 bytes
    rows_offset  for each host: blocks_per_host blocks; in a block, for each layer: the rows of its tokens, then its indexer keys
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from math import inf

import numpy as np

from sac_runtime.errors import GeometryError, PoolFormatError
from sac_runtime.memory.store import KvStore
from sac_runtime.pool.lines import Lines, checksum, read_lines, write_lines
from sac_runtime.rows.doors import require_whole
from sac_runtime.rows.layout import LINE_BYTES, PAGE_BYTES, KvLayout

VERSION = 3
MAX_BLOCKS = 2**31 - 1  # the index of a directory has 32-bit places
MAX_HOSTS = 64  # every host owns a line in the area of every other
MAX_BLOCK_TOKENS = 2**16 - 1  # width of num_tokens in a journal entry
MAX_BATCH = 1024  # journal entries that one commit covers at most

_MAGIC = int.from_bytes(b"SACPOOL\0", "little")
_WAIT_STEP_S = 0.05  # between two looks for a pool
_HOSTS_OFFSET = PAGE_BYTES
_STATE_LINES = 2
_SUPERBLOCK = np.dtype(
    [
        ("magic", "<u8"),
        ("version", "<u8"),
        ("pool_id", "<u8"),
        ("layout_name", "S16"),
        ("quantiser", "S16"),
        ("row_bytes", "<u8"),
        ("stride_bytes", "<u8"),
        ("latent", "<u8"),
        ("rope", "<u8"),
        ("num_layers", "<u8"),
        ("block_tokens", "<u8"),
        ("index_key_bytes", "<u8"),
        ("num_hosts", "<u8"),
        ("blocks_per_host", "<u8"),
        ("rows_offset", "<u8"),
        ("check_bytes", "<u8"),
        ("spare", "<u8", (5,)),
        ("checksum", "<u8"),
    ]
)
_SUPERBLOCK_LINES = _SUPERBLOCK.itemsize // LINE_BYTES


@dataclass(frozen=True)
class PoolGeometry:
    """Shape of a pool. All hosts of a pool agree on every field; the superblock holds them. Raises GeometryError.

    block_tokens: tokens of a block, the unit of allocation, publication, flushing and reclaim. index_key_bytes: bytes of indexer
    key that are kept beside each token and layer (0: none; 132 in DeepSeek-V3.2's fp8)."""

    layout: KvLayout
    num_hosts: int
    num_layers: int
    block_tokens: int
    blocks_per_host: int
    index_key_bytes: int = 0

    def __post_init__(self) -> None:
        for field in ("num_hosts", "num_layers", "block_tokens", "blocks_per_host"):
            require_whole("pool", field, getattr(self, field), 1)
        if self.num_hosts > MAX_HOSTS:
            raise GeometryError(f"pool: num_hosts={self.num_hosts} exceeds {MAX_HOSTS}")
        if self.block_tokens > MAX_BLOCK_TOKENS:
            raise GeometryError(f"pool: block_tokens={self.block_tokens} exceeds {MAX_BLOCK_TOKENS}")
        if self.num_blocks > MAX_BLOCKS:
            raise GeometryError(
                f"pool: num_hosts={self.num_hosts} of {self.blocks_per_host} blocks exceed {MAX_BLOCKS} blocks"
            )
        require_whole("pool", "index_key_bytes", self.index_key_bytes)
        if self.block_bytes % LINE_BYTES:
            raise GeometryError(
                f"pool: block_tokens={self.block_tokens} makes blocks of {self.block_bytes} bytes, which share a cache line; "
                f"two hosts must never write one line (use a multiple of {LINE_BYTES} tokens)"
            )

    @classmethod
    def fitting(
        cls,
        size_bytes: int,
        layout: KvLayout,
        *,
        num_hosts: int,
        num_layers: int,
        block_tokens: int,
        index_key_bytes: int = 0,
    ) -> "PoolGeometry":
        """The largest pool that a memory of `size_bytes` holds, metadata included. Raises GeometryError if not even one block."""

        def of(blocks: int) -> PoolGeometry:
            return cls(layout, num_hosts, num_layers, block_tokens, blocks, index_key_bytes)

        blocks = size_bytes // (num_hosts * of(1).block_bytes)
        while blocks and of(blocks).size_bytes > size_bytes:
            blocks -= max(1, (of(blocks).size_bytes - size_bytes) // (num_hosts * (of(1).block_bytes + 4 * LINE_BYTES)))
        if not blocks:
            raise GeometryError(f"pool: size_bytes={size_bytes} holds no block per host (at least {of(1).size_bytes})")
        return of(blocks)

    @property
    def index_key_rows(self) -> int:
        """Rows that the indexer keys of one layer of one block take up."""
        return -(-self.block_tokens * self.index_key_bytes // self.layout.row_bytes)

    @property
    def layer_rows(self) -> int:
        """Rows from one layer of a block to the next: its tokens, then its indexer keys."""
        return self.block_tokens + self.index_key_rows

    @property
    def block_rows(self) -> int:
        return self.num_layers * self.layer_rows

    @property
    def block_bytes(self) -> int:
        return self.block_rows * self.layout.stride_bytes

    @property
    def num_blocks(self) -> int:
        return self.num_hosts * self.blocks_per_host

    @property
    def num_rows(self) -> int:
        """Rows that the pool's store must have."""
        return self.num_blocks * self.block_rows

    @property
    def batch_entries(self) -> int:
        """Journal entries that one commit covers at most."""
        return min(MAX_BATCH, self.blocks_per_host)

    @property
    def journal_slots(self) -> int:
        """Twice what may be live, so that carrying live entries forward costs one copy per entry on average at most; a batch to
        write and one to carry."""
        return 2 * (self.blocks_per_host + self.batch_entries)

    @property
    def metadata_bytes(self) -> int:
        """Metadata region that the pool's store must have in front of its rows; whole pages."""
        return -(-self.journal_offset(self.num_hosts) // PAGE_BYTES) * PAGE_BYTES

    @property
    def size_bytes(self) -> int:
        """Metadata and rows together."""
        return self.metadata_bytes + self.num_rows * self.layout.stride_bytes

    @property
    def host_area_lines(self) -> int:
        return _STATE_LINES + self.num_hosts

    def state_offset(self, host: int, turn: int) -> int:
        """Where `host` writes its state; turn 0 or 1."""
        return _HOSTS_OFFSET + (host * self.host_area_lines + turn) * LINE_BYTES

    def mark_offset(self, host: int, fencer: int) -> int:
        """Where `fencer` marks that it fenced `host` off."""
        return _HOSTS_OFFSET + (host * self.host_area_lines + _STATE_LINES + fencer) * LINE_BYTES

    def journal_offset(self, host: int) -> int:
        hosts_bytes = self.num_hosts * self.host_area_lines * LINE_BYTES
        first = _HOSTS_OFFSET + -(-hosts_bytes // PAGE_BYTES) * PAGE_BYTES
        return first + host * self.journal_slots * LINE_BYTES


def require_store_fits(store: KvStore, geometry: PoolGeometry) -> None:
    """Raise GeometryError unless the store has the pool's row format and room for its metadata and rows."""
    if store.layout != geometry.layout:
        raise GeometryError(f"pool: geometry has layout {geometry.layout}, the store {store.layout}")
    if store.rows_offset < geometry.metadata_bytes or store.rows_offset % LINE_BYTES:
        raise GeometryError(
            f"pool: the store's metadata region is {store.rows_offset} bytes, the pool needs {geometry.metadata_bytes} "
            "(make the store with metadata_bytes=PoolGeometry(...).metadata_bytes)"
        )
    if store.num_rows < geometry.num_rows:
        raise GeometryError(
            f"pool: the store has num_rows={store.num_rows}, the pool needs {geometry.num_rows} "
            "(make the store with num_rows=PoolGeometry(...).num_rows, or fewer blocks_per_host)"
        )


def require_host(geometry: PoolGeometry, host: int) -> None:
    """Raise GeometryError unless the pool has such a host."""
    require_whole("pool", "host", host, -(1 << 62))
    if not 0 <= host < geometry.num_hosts:
        raise GeometryError(f"pool: host={host} lies outside [0, {geometry.num_hosts}), the hosts of this pool")


def write_superblock(store: KvStore, geometry: PoolGeometry) -> int:
    """Make the memory a pool. Everything else of the pool must be in place before. Returns the new pool's id."""
    superblock = np.zeros(1, _SUPERBLOCK)
    superblock["magic"], superblock["version"] = _MAGIC, VERSION
    superblock["pool_id"] = int.from_bytes(os.urandom(8), "little")
    described = _store_fields(store) | {name: getattr(geometry, name) for name in _COUNTS}
    for name, value in described.items():
        superblock[name] = value
    write_lines(store, 0, superblock, salt=0)
    return int(superblock["pool_id"][0])


def reseal_superblock(store: KvStore, field: str, value: int) -> None:
    """Change a field under a checksum that is right: what a hostile host, or a runtime of another version, may leave. For tests of
    whoever reads it."""
    superblock = read_lines(store, 0, _SUPERBLOCK_LINES, _SUPERBLOCK)
    superblock[field] = value
    write_lines(store, 0, superblock, salt=0)


def erase_superblock(store: KvStore) -> None:
    """Make the memory no pool, so that a half-made one is never taken for whole."""
    store.write_bytes(0, np.zeros(_SUPERBLOCK.itemsize, np.uint8))
    store.flush(0, _SUPERBLOCK.itemsize)
    store.fence()


def holds_pool(store: KvStore) -> bool:
    """Whether a superblock is there: a whole one of this version, whatever its geometry, or any of another version."""
    superblock = read_lines(store, 0, _SUPERBLOCK_LINES, _SUPERBLOCK)
    whole = superblock["checksum"][0] == checksum(superblock, 0)[0]
    return bool(superblock["magic"][0] == _MAGIC and (whole or superblock["version"][0] != VERSION))


def read_superblock(store: KvStore) -> tuple[PoolGeometry, int]:
    """Geometry and id of the pool in `store`. Raises PoolFormatError, naming both sides, for anything but a whole pool of this
    version and of the store's own row format and offset."""
    superblock = read_lines(store, 0, _SUPERBLOCK_LINES, _SUPERBLOCK)
    _require_whole(superblock)
    ours = _store_fields(store)
    values = {name: superblock[name][0].item() for name in (*ours, *_COUNTS, "pool_id")}
    differing = [name for name, value in ours.items() if values[name] != value]
    if differing:
        raise PoolFormatError(
            "pool superblock: the pool has "
            + ", ".join(f"{name}={_shown(values[name])}" for name in differing)
            + "; this store has "
            + ", ".join(f"{name}={_shown(ours[name])}" for name in differing)
            + " (open the store with the pool's layout and metadata_bytes, or create the pool anew)"
        )
    return PoolGeometry(store.layout, *(values[name] for name in _COUNTS)), values["pool_id"]


def find_pool(
    store: KvStore, expected: PoolGeometry | None, wait_s: float, sleep: Callable[[float], None]
) -> tuple[PoolGeometry, int]:
    """Geometry and id of the pool in `store`, once somebody has created one, or after `wait_s` at the latest.
    Raises PoolFormatError if there is none then, or another than `expected`; GeometryError if the store does not fit it."""
    if not 0 <= wait_s < inf:
        raise GeometryError(f"pool: wait_s={wait_s} must be a number of seconds, 0 or more")
    end_s = time.monotonic() + wait_s
    while not holds_pool(store) and (left_s := end_s - time.monotonic()) > 0:
        sleep(min(_WAIT_STEP_S, left_s))
    geometry, pool_id = read_superblock(store)
    if expected is not None:
        require_same_geometry(geometry, expected)
    require_store_fits(store, geometry)
    return geometry, pool_id


def require_same_geometry(stored: PoolGeometry, expected: PoolGeometry) -> None:
    """Raise PoolFormatError that names both sides where the pool is not the one that the caller expects."""
    names = [field.name for field in fields(stored) if getattr(stored, field.name) != getattr(expected, field.name)]
    if names:
        raise PoolFormatError(
            "pool superblock: the pool has "
            + ", ".join(f"{name}={getattr(stored, name)}" for name in names)
            + "; expected "
            + ", ".join(f"{name}={getattr(expected, name)}" for name in names)
        )


_COUNTS = ("num_hosts", "num_layers", "block_tokens", "blocks_per_host", "index_key_bytes")


def _store_fields(store: KvStore) -> dict[str, int | bytes]:
    """What a superblock says of the memory rather than of the pool's shape."""
    layout = store.layout
    return {
        "layout_name": layout.name.encode()[:16],
        "quantiser": (layout.quantiser or "").encode()[:16],
        "row_bytes": layout.row_bytes,
        "stride_bytes": layout.stride_bytes,
        "latent": layout.latent,
        "rope": layout.rope,
        "check_bytes": layout.check_bytes,
        "rows_offset": store.rows_offset,
    }


def _require_whole(superblock: Lines) -> None:
    magic, version = int(superblock["magic"][0]), int(superblock["version"][0])
    if magic != _MAGIC:
        raise PoolFormatError(
            f"pool superblock: magic={magic.to_bytes(8, 'little')!r}, a pool has {_MAGIC.to_bytes(8, 'little')!r}; "
            "this memory holds no pool: none is created yet (wait for its creator with wait_s), or it is another memory"
        )
    if version != VERSION:
        raise PoolFormatError(
            f"pool superblock: the pool has version={version}, this runtime reads version={VERSION} "
            "(use one runtime on all hosts, or create the pool anew)"
        )
    computed, stored = int(checksum(superblock, 0)[0]), int(superblock["checksum"][0])
    if stored != computed:
        raise PoolFormatError(
            f"pool superblock: checksum={stored:#018x}, its fields give {computed:#018x}; "
            "the superblock is torn (create the pool anew)"
        )


def _shown(value: int | bytes) -> str:
    return value.decode(errors="replace") or "none" if isinstance(value, bytes) else str(value)

"""The 64-byte lines that hosts tell each other things with: formats, checksums, and the order of flush, fence and load.

Knows bytes of shared metadata, not what a pool does with them. Every line has exactly one writing host. A line is read and written
whole, may be caught half-written (by a reader, or for ever by the death of its writer), and its checksum shows that."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sac_runtime import native
from sac_runtime.memory.store import KvStore
from sac_runtime.rows.layout import LINE_BYTES

Lines = NDArray[Any]  # structured, LINE_BYTES per element

# One entry of a host's journal: a block was published, or retired.
ENTRY = np.dtype(
    [
        ("sequence", "<u8"),  # place in the journal; slot = sequence % journal_slots
        ("hash_low", "<u8"),
        ("hash_high", "<u8"),
        ("publication", "<u8"),  # sequence under which this publication first appeared
        ("epoch", "<u8"),  # of the pool when the entry was written; for whoever reads a dump
        ("block", "<u4"),  # number in the whole pool
        ("num_tokens", "<u2"),
        ("kind", "<u2"),
        ("spare", "<u8"),
        ("checksum", "<u8"),
    ]
)

# What a host says about itself. Two lines each, written in turn, so that a torn one leaves the state before it.
STATE = np.dtype(
    [
        ("sequence", "<u8"),  # grows with every write: the heartbeat
        ("incarnation", "<u8"),  # openings of the pool as this host so far, then 32 random bits
        ("status", "<u8"),
        ("epoch", "<u8"),  # the pool's epoch is the greatest of all hosts
        ("reading", "<u8"),  # oldest epoch that this host still reads, or NO_LEASE
        ("head", "<u8"),  # journal entries below it are committed
        ("blocks_used", "<u8"),  # blocks of the arena from here on were never published
        ("checksum", "<u8"),
    ]
)

# "I, the writer, have fenced off that host up to this incarnation."
MARK = np.dtype([("incarnation", "<u8"), ("spare", "<u8", (6,)), ("checksum", "<u8")])

PUBLISHED, RETIRED = 1, 2  # kinds of an ENTRY
NEVER_OPENED, OPEN, CLOSED = 0, 1, 2  # status in a STATE
NO_LEASE = 2**64 - 1

_WORD_MASK = 2**64 - 1


def _odd_constants(count: int) -> NDArray[np.uint64]:
    """Odd multipliers, one per word: output of splitmix64 (Steele, Lea, Flood 2014), seed 0, lowest bit set."""
    constants = []
    for index in range(1, count + 1):
        word = index * 0x9E3779B97F4A7C15 & _WORD_MASK
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _WORD_MASK
        word = (word ^ word >> 27) * 0x94D049BB133111EB & _WORD_MASK
        constants.append(word ^ word >> 31 | 1)
    return np.array(constants, np.uint64)


MULTIPLIERS = _odd_constants(64)


def checksum(lines: Lines, salt: int | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Checksum of everything but the last 8 bytes of each element.
    lines: (n,) structured; salt: one, or (n,) uint64. Returns (n,) uint64.

    A sum of words, each folded and multiplied by an odd constant: any change of one word changes it for certain, changes of
    several words escape with odds of about 2^-64. Against torn and stale lines, not against malice. The salt (pool, host, format)
    keeps a valid line of another pool, or in the wrong place, from passing."""
    lines = np.ascontiguousarray(lines)
    salts = np.atleast_1d(np.asarray(salt, np.uint64))
    sums = np.empty(len(lines), np.uint64)
    native.load().sac_checksums(
        native.address(lines),
        len(lines),
        lines.itemsize // 8,
        native.address(MULTIPLIERS),
        native.address(salts),
        int(len(salts) > 1),
        native.address(sums),
    )
    return sums


def salt_of(pool_id: int, host: int, dtype: np.dtype[Any]) -> int:
    """What to mix into the checksum of a line: which pool, whose line, which format."""
    kind = (ENTRY, STATE, MARK).index(dtype)
    return (pool_id + (4 * host + kind) * 0x9E3779B97F4A7C15) & _WORD_MASK


def publications(
    blocks: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    num_tokens: NDArray[Any] | int,
    *,
    publication: NDArray[np.uint64] | int = 0,
    epoch: int = 0,
) -> Lines:
    """Journal entries that say which block holds the tokens of which hash. blocks: (n,); hashes: (n, 2); num_tokens: (n,), or one
    for all; publication: (n,), 0 where the entry is the block's first. Returns (n,) ENTRY."""
    entries = np.zeros(len(blocks), ENTRY)
    entries["kind"] = PUBLISHED
    entries["block"] = blocks
    hashes_in(entries)[:] = hashes
    entries["num_tokens"] = num_tokens
    entries["publication"] = publication
    entries["epoch"] = epoch
    return entries


def hashes_in(entries: Lines) -> NDArray[np.uint64]:
    """The block hashes of journal entries, as a view of both words. entries: (n,) ENTRY. Returns (n, 2) uint64."""
    words: NDArray[np.uint64] = entries.view("<u8").reshape(-1, LINE_BYTES // 8)
    return words[:, 1:3]


def read_lines(store: KvStore, offset: int, count: int, dtype: np.dtype[Any]) -> Lines:
    """Read `count` lines as memory holds them now, not as this host's cache remembers them."""
    raw = np.empty(count * LINE_BYTES, np.uint8)
    store.invalidate(offset, raw.size)
    store.fence()
    store.read_bytes(offset, raw)
    return raw.view(dtype)


def write_lines(store: KvStore, offset: int, lines: Lines, salt: int) -> None:
    """Seal the lines and put them where the other hosts see them. On return they are in memory."""
    lines["checksum"] = checksum(lines, salt)
    raw = lines.view(np.uint8)
    store.write_bytes(offset, raw)
    store.flush(offset, raw.size)
    store.fence()

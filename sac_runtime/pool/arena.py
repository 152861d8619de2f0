"""The blocks of one host: free, held by a writer, published, or retired and waiting for readers.

Knows block numbers and epochs, no memory and no other host: all of it is private to the process, so allocation needs no lock."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from sac_runtime.errors import BlockStateError
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.lines import NO_LEASE
from sac_runtime.rows.doors import require_integers
from sac_runtime.rows.layout import IntArray


class BlockState(IntEnum):
    FREE = 0
    HELD = 1  # allocated; its rows may be written, nobody else can find it
    PUBLISHED = 2  # immutable
    RETIRED = 3  # no longer found, perhaps still read


class Arena:
    """The own blocks of a host, by their number in the whole pool.

    A block that was retired at epoch r is free again once no host reads an epoch before r."""

    def __init__(self, geometry: PoolGeometry, host: int, published: IntArray, num_used: int) -> None:
        """published: those of the journal; num_used: blocks from there on were never published, the others wait until
        wait_for_readers says for whom."""
        self.host = host
        self.first = host * geometry.blocks_per_host
        self._states = np.zeros(geometry.blocks_per_host, np.uint8)
        self._states[:num_used] = BlockState.RETIRED
        self._states[published - self.first] = BlockState.PUBLISHED
        self._retired_at = np.zeros(geometry.blocks_per_host, np.uint64)
        self._retired_at[:num_used] = NO_LEASE
        self._next_unused = num_used
        self._freed = np.zeros(geometry.blocks_per_host, np.int64)  # a stack of those used before and free again
        self._num_freed = 0
        self._last_use = np.zeros(geometry.blocks_per_host, np.uint64)
        self._tick = 0

    @property
    def num_free(self) -> int:
        return self._num_freed + len(self._states) - self._next_unused

    def count(self, state: BlockState) -> int:
        return int(np.count_nonzero(self._states == state))

    def shortage(self, count: int) -> str:
        """Why `count` blocks cannot be allocated, and what of it the caller can change."""
        return (
            f"pool arena of host {self.host}: {count} blocks wanted, {self.num_free} free of {len(self._states)}; "
            f"{self.count(BlockState.PUBLISHED)} published (retire some), {self.count(BlockState.HELD)} being written, "
            f"{self.count(BlockState.RETIRED)} retired and perhaps read still"
        )

    def allocate(self, count: int) -> IntArray:
        """Take free blocks; there must be enough. Returns (count,) int64."""
        assert 0 <= count <= self.num_free
        num_freed = min(count, self._num_freed)
        self._num_freed -= num_freed
        first_unused = self._next_unused
        self._next_unused += count - num_freed
        indices = np.concatenate(
            [
                self._freed[self._num_freed : self._num_freed + num_freed][::-1],
                np.arange(first_unused, self._next_unused),
            ]
        )
        self._states[indices] = BlockState.HELD
        numbers: IntArray = indices + self.first
        return numbers

    def held_of(self, blocks: IntArray) -> IntArray:
        """Those of `blocks`, all of this host, that are still held."""
        held: IntArray = blocks[self._states[blocks - self.first] == BlockState.HELD]
        return held

    def free(self, blocks: IntArray) -> None:
        """Give back blocks that were allocated and never published."""
        self._push(self.require(blocks, BlockState.HELD, "freed"))

    def published(self, blocks: IntArray) -> None:
        """Note that held blocks are in the journal now."""
        self._states[blocks - self.first] = BlockState.PUBLISHED

    def unpublished(self) -> IntArray:
        """Blocks of this host that are not published, (n,) int64."""
        numbers: IntArray = np.flatnonzero(self._states != BlockState.PUBLISHED) + self.first
        return numbers

    def num_used_with(self, blocks: IntArray) -> int:
        """Blocks of the arena that are used, or lie before one that is, if no others than `blocks` are."""
        return int((blocks - self.first).max(initial=-1)) + 1

    def retired(self, blocks: IntArray, epoch: int) -> None:
        """Note that published blocks are out of the journal; readers at `epoch` and after know it."""
        own = blocks - self.first
        self._states[own] = BlockState.RETIRED
        self._retired_at[own] = epoch

    def wait_for_readers(self, epoch: int) -> None:
        """Let all retired blocks wait for readers at an epoch before `epoch`."""
        self._retired_at[self._states == BlockState.RETIRED] = epoch

    def reclaim(self, oldest_epoch_read: int, in_use: IntArray | None = None) -> None:
        """Free what was retired and no one may read any more. in_use: blocks that are kept all the same."""
        waiting = np.flatnonzero(self._states == BlockState.RETIRED)
        free = waiting[self._retired_at[waiting] <= oldest_epoch_read]
        self._push(free if in_use is None else np.setdiff1d(free, in_use - self.first))

    def used(self, blocks: IntArray) -> None:
        """Note a use of published blocks, for coldest(). The earlier in `blocks`, the later it counts as used. Blocks of
        other hosts are passed over."""
        own = np.asarray(blocks, np.int64) - self.first
        own = own[(own >= 0) & (own < len(self._states))]
        self._tick += len(own)
        self._last_use[own] = np.arange(self._tick, self._tick - len(own), -1, dtype=np.uint64)

    def coldest(self, count: int, in_use: IntArray | None = None) -> IntArray:
        """Published blocks not used for longest, those `in_use` left out; of one chain its last first, so that a prefix remains.
        Returns (<= count,)."""
        published = np.flatnonzero(self._states == BlockState.PUBLISHED)
        if in_use is not None:
            published = np.setdiff1d(published, in_use - self.first)
        coldest: IntArray = published[np.argsort(self._last_use[published], kind="stable")[:count]] + self.first
        return coldest

    def require(self, blocks: IntArray, state: BlockState, verb: str) -> IntArray:
        """Numbers within the arena of `blocks`. Raises BlockStateError unless each is of this host, in `state`, named once."""
        numbers = np.asarray(blocks)
        require_integers(f"pool host {self.host}", "blocks", numbers)
        own = numbers.astype(np.int64) - self.first
        if own.size and not (own.min() >= 0 and own.max() < len(self._states)):
            raise BlockStateError(
                f"pool host {self.host}: blocks {blocks} are not all of its arena "
                f"[{self.first}, {self.first + len(self._states)}), so they cannot be {verb} here"
            )
        wrong = np.flatnonzero(self._states[own] != state)
        if wrong.size:
            state_name = BlockState(self._states[own[wrong[0]]]).name.lower()
            raise BlockStateError(
                f"pool host {self.host}: block {own[wrong[0]] + self.first} is {state_name}; "
                f"only {state.name.lower()} blocks can be {verb}"
            )
        if len(own) > 1 and len(np.unique(own)) != len(own):
            raise BlockStateError(f"pool host {self.host}: blocks {blocks} name a block twice")
        return own

    def _push(self, own: NDArray[np.int64]) -> None:
        self._states[own] = BlockState.FREE
        self._freed[self._num_freed : self._num_freed + len(own)] = own[::-1]
        self._num_freed += len(own)

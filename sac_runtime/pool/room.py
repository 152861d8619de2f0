"""Room in a host's arena: what may be reused now, and which published blocks go first where it is full. Knows epochs, leases and
the order of use; writes no rows and no journal.

A lease of any host holds back all that was retired since it began. Where a host evicts, its own leases hold back less: what they
have found, and what was published while they lasted. So a process whose requests hold leases can make room for the next one."""

from collections.abc import Callable

import numpy as np

from sac_runtime.errors import PoolFullError
from sac_runtime.pool.arena import Arena, BlockState
from sac_runtime.pool.hosts import Hosts
from sac_runtime.pool.lease import Leases
from sac_runtime.rows.layout import IntArray


class Room:
    """How one host finds free blocks. retire: takes published blocks out of its journal; evicts: whether such may go."""

    def __init__(
        self, hosts: Hosts, arena: Arena, leases: Leases, retire: Callable[[IntArray], None], evicts: bool
    ) -> None:
        self._hosts = hosts
        self._arena = arena
        self._leases = leases
        self._retire = retire
        self._evicts = evicts

    def require(self, count: int) -> None:
        """See to it that `count` blocks are free: reclaim what no one may read any more, fencing off hosts that hold a lease and
        are dead; then, where this host evicts, retire the coldest blocks, as many as are missing, if so many can go.
        Raises PoolFullError, FencedError."""
        if count > self._arena.num_free:
            self._reclaim(count)
        if self._evicts and count > self._arena.num_free:
            self._evict(count)
        if count > self._arena.num_free:
            readers = np.flatnonzero(self._hosts.look().readers).tolist()
            raise PoolFullError(
                f"{self._arena.shortage(count)}, by hosts {readers} (wait for their leases to end"
                f"{'' if self._evicts else '; or open the pool with evict=True'})"
            )

    def _reclaim(self, count: int) -> None:
        view = self._hosts.look()
        self._arena.reclaim(view.oldest_epoch_read)
        if count > self._arena.num_free and self._hosts.fence_silent(view, view.readers):
            self._arena.reclaim(self._hosts.look().oldest_epoch_read)

    def _evict(self, count: int) -> None:
        in_use = self._leases.blocks_in_use()
        self._reclaim_beside(in_use)
        missing = count - self._arena.num_free - self._arena.count(BlockState.RETIRED)
        coldest = self._arena.coldest(max(0, missing), in_use)
        if missing <= 0 or len(coldest) < missing:  # what is retired waits for others, or all of it would not be enough
            return
        self._retire(coldest)
        self._reclaim_beside(in_use)

    def _reclaim_beside(self, in_use: IntArray) -> None:
        """Free what was retired and no other host may read, nor this one under a lease."""
        self._arena.reclaim(self._hosts.look().oldest_epoch_read_beside(self._hosts.host), in_use)

"""Three hosts do at random what hosts do, over caches that evict, prefetch and flush early as they like; a plain model says what
must hold."""

import random

import pytest

from emulation.stores.incoherent import IncoherentStore
from sac_runtime.errors import FencedError, PoolFullError

NUM_HOSTS = 3


class Story:
    """Random events, and what everybody may rely on after each."""

    def __init__(self, kit, seed):
        self.kit, self.random = kit, random.Random(seed)
        geometry = kit.geometry_of(num_hosts=NUM_HOSTS, num_layers=2, block_tokens=1, blocks_per_host=5)
        seeds = iter(range(100 * seed, 100 * seed + NUM_HOSTS))
        self.bed = kit.Bed(
            geometry,
            wrap=lambda memory: IncoherentStore(memory, seed=next(seeds), evict=0.2, prefetch=0.3, flush_early=0.3),
        )
        self.published = {}  # request -> (host, blocks)
        self.leases = {}  # host -> (lease manager, {request: blocks})
        self.requests = 0
        self.happened = set()

    def step(self):
        weights = {"put": 6, "retire": 4, "begin": 4, "read": 8, "end": 3, "crash": 1, "close": 1, "fence": 1}
        event = self.random.choices(list(weights), weights.values())[0]
        getattr(self, event)(self.random.randrange(NUM_HOSTS))

    def put(self, host):
        hashes = self._chain(self.requests + 1)
        try:
            blocks = self.kit.put(self.bed.pools[host], hashes)
        except PoolFullError:
            self.happened.add("full")
            return
        self.requests += 1
        self.published[self.requests] = (host, blocks)

    def retire(self, host):
        own = [request for request, (owner, _) in self.published.items() if owner == host]
        if own:
            self.bed.pools[host].retire(self.published.pop(self.random.choice(own))[1])
            self.happened.add("retired")

    def begin(self, host):
        if host not in self.leases:
            lease = self.bed.pools[host].lease()
            self.leases[host] = (lease, lease.__enter__(), {})

    def read(self, host):
        """All that is published is found; all that was ever found under this lease still holds what it did."""
        if host not in self.leases:
            return
        _, lease, found = self.leases[host]
        for request in self.published:
            blocks = lease.prefix(self._chain(request))
            assert len(blocks) == 2, f"request {request} was published and is lost"
            found[request] = blocks
        for request, blocks in found.items():
            seen = self.kit.read(self.bed.pools[host], blocks)
            assert (seen == self.kit.contents(self._chain(request), self.bed.geometry)).all()
            self.happened.add("read" if request in self.published else "read though retired")

    def end(self, host):
        if host in self.leases:
            self.leases.pop(host)[0].__exit__(None, None, None)

    def crash(self, host):
        if self.random.random() < 0.5:
            self.bed.stores[host].write_back_everything()
        self._gone(host)
        self._open(host)

    def close(self, host):
        self.end(host)
        self.bed.pools[host].close()
        self._gone(host)
        self._open(host)

    def fence(self, host):
        """The host is silent for too long, and another takes it for dead."""
        judge = self.bed.pools[(host + 1) % NUM_HOSTS]
        judge.refresh()
        self._time_passes(self.kit.PATIENCE_S, silent=host)
        assert judge.fence_dead_hosts() == [host]
        if host in self.leases:
            with pytest.raises(FencedError):
                self.end(host)
            self.happened.add("fenced under lease")
        self._gone(host)
        self._open(host)

    def _open(self, host):
        self.bed.open(host, sleep=lambda seconds: self._time_passes(seconds, silent=host))

    def _time_passes(self, seconds, silent):
        self.bed.watch.sleep(seconds)
        for host in range(NUM_HOSTS):
            if host != silent:
                self.bed.pools[host].beat()

    def _gone(self, host):
        self.leases.pop(host, None)
        self.bed.stores[host].lose_cache()

    def _chain(self, request):
        return self.kit.chain(request, 2, self.bed.geometry)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_hosts_do_nobody_loses_or_misreads_a_block(kit, seed):
    story = Story(kit, seed)
    for _ in range(1500):
        story.step()
    assert {"full", "retired", "read", "read though retired"} <= story.happened
    for pool in story.bed.pools.values():
        assert pool.num_torn_entries == 0

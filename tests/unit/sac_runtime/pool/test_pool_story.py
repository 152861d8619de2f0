"""Three hosts do whatever hosts do, in any order, over caches that evict, prefetch and flush early as they like; a plain model says
what must hold. Hypothesis tells the stories, and shortens one that fails to the few events that it takes."""

from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from emulation.stores.incoherent import IncoherentStore
from sac_runtime.errors import FencedError, PoolFullError, SacError
from sac_runtime.pool.hosts import HostsView
from sac_runtime.pool.lines import NO_LEASE
from sac_runtime.pool.pool import Pool
from tests.support.pool import PATIENCE_S, Fleet, chain, contents, geometry_of, put, read

NUM_HOSTS = 3
HOSTS = st.integers(0, NUM_HOSTS - 1)
BLOCKS_PER_REQUEST = 2
DEPARTURES = ("_lose_power", "_die", "_close", "_fall_silent")  # how a host goes: methods of PoolStory
# The same stories in every run, and a bounded number of them: at most 80 of 60 events each.
STORIES = settings(max_examples=80, stateful_step_count=60, deadline=None, derandomize=True, database=None)


class PoolStory(RuleBasedStateMachine):
    """Events, and what everybody may rely on after each."""

    happened: ClassVar[Counter] = Counter()

    @initialize(seed=st.integers(0, 99))
    def begin_story(self, seed):
        geometry = geometry_of(num_hosts=NUM_HOSTS, num_layers=2, block_tokens=1, blocks_per_host=5)
        seeds = iter(range(100 * seed, 100 * seed + NUM_HOSTS))
        self.fleet = Fleet(
            geometry,
            wrap=lambda memory: IncoherentStore(memory, seed=next(seeds), evict=0.2, prefetch=0.3, flush_early=0.3),
        )
        self.published = {}  # request -> (host, blocks)
        self.retired = []  # requests
        self.leases = {}  # host -> (context manager, lease, {request: blocks}, number of requests retired before it)
        self.lost_leases = []  # of dead hosts: their ends, which Python would run with the last reference, must not be heard
        self.num_requests = 0

    @rule(host=HOSTS)
    def put(self, host):
        try:
            blocks = put(self.fleet.pools[host], self._chain(self.num_requests + 1))
        except PoolFullError:
            self.happened["full"] += 1
            return
        self.num_requests += 1
        self.published[self.num_requests] = (host, blocks)
        self.happened["put"] += 1

    @precondition(lambda self: self.published)
    @rule(choice=st.integers(0, 99))
    def retire(self, choice):
        request = sorted(self.published)[choice % len(self.published)]
        host, blocks = self.published.pop(request)
        self.fleet.pools[host].retire(blocks)
        self.retired.append(request)
        self.happened["retire"] += 1

    @precondition(lambda self: len(self.leases) < NUM_HOSTS)
    @rule(host=HOSTS)
    def begin(self, host):
        if host not in self.leases:
            manager = self.fleet.pools[host].lease()
            self.leases[host] = (manager, manager.__enter__(), {}, len(self.retired))
            self.happened["begin"] += 1

    @precondition(lambda self: self.leases)
    @rule(choice=HOSTS)
    def read(self, choice):
        self._read(sorted(self.leases)[choice % len(self.leases)])

    @precondition(lambda self: self.leases)
    @rule()
    def everybody_reads(self):
        for host in self.leases:
            self._read(host)

    @precondition(lambda self: self.leases)
    @rule(choice=HOSTS)
    def end(self, choice):
        self._end(sorted(self.leases)[choice % len(self.leases)])

    @rule(host=HOSTS, departure=st.sampled_from(DEPARTURES))
    def leave(self, host, departure):
        """A host goes, and another process takes its place."""
        self.happened[f"{departure} under lease" if host in self.leases else departure] += 1
        getattr(self, departure)(host)
        self.lost_leases.append(self.leases.pop(host, None))
        self.fleet.stores[host].lose_cache()
        self.fleet.open(host, sleep=lambda seconds: self._time_passes(seconds, silent=host))

    def teardown(self):
        if hasattr(self, "fleet"):
            assert all(pool.num_torn_entries == 0 for pool in self.fleet.pools.values())

    def _read(self, host):
        """All that is published is found, and nothing that was retired before the lease; all that was ever found under this lease
        still holds what it did."""
        _, lease, known, num_retired = self.leases[host]
        for request in self.published:
            blocks = lease.prefix(self._chain(request))
            assert len(blocks) == BLOCKS_PER_REQUEST, f"request {request} was published and is lost"
            known[request] = blocks
        for request in self.retired[:num_retired][-3:]:
            assert not len(lease.prefix(self._chain(request))), f"request {request} was retired and is found"
        for request, blocks in known.items():
            values = read(self.fleet.pools[host], blocks)
            assert (values == contents(self._chain(request), self.fleet.geometry)).all(), (
                f"request {request} is misread"
            )
            self.happened["read" if request in self.published else "read though retired"] += 1

    def _end(self, host):
        self.leases.pop(host)[0].__exit__(None, None, None)
        self.happened["end"] += 1

    def _lose_power(self, host):
        """What its cache had not written back is gone."""

    def _die(self, host):
        """The process alone: its cache writes all back in the end."""
        self.fleet.stores[host].write_back_everything()

    def _close(self, host):
        if host in self.leases:
            self._end(host)
        self.fleet.pools[host].close()

    def _fall_silent(self, host):
        """For too long: another host takes it for dead, and it is told so."""
        fencer = self.fleet.pools[(host + 1) % NUM_HOSTS]
        fencer.refresh()
        self._time_passes(PATIENCE_S, silent=host)
        assert fencer.fence_dead_hosts() == [host]
        if host in self.leases:
            with pytest.raises(FencedError):
                self._end(host)

    def _time_passes(self, seconds, silent):
        self.fleet.watch.sleep(seconds)
        for host in range(NUM_HOSTS):
            if host != silent:
                self.fleet.pools[host].beat()

    def _chain(self, request):
        return chain(request, BLOCKS_PER_REQUEST, self.fleet.geometry)


FEWEST = dict.fromkeys(("put", "full", "retire", "begin", "read", "read though retired", "end", *DEPARTURES), 20)
FEWEST |= {f"{departure} under lease": 5 for departure in DEPARTURES}


def test_whatever_hosts_do_nobody_loses_or_misreads_a_block():
    PoolStory.happened.clear()
    run_state_machine_as_test(PoolStory, settings=STORIES)
    seldom = {event: PoolStory.happened[event] for event in FEWEST if PoolStory.happened[event] < FEWEST[event]}
    assert not seldom, "the stories say too little of these"


def leases_ignored(patch):
    patch.setattr(HostsView, "oldest_epoch_read", NO_LEASE)


def rows_not_flushed(patch):
    patch.setattr(Pool, "_flush", lambda self, blocks: None)


@pytest.mark.parametrize("broken", [leases_ignored, rows_not_flushed], ids=lambda breakage: breakage.__name__)
def test_the_stories_notice(monkeypatch, broken):
    broken(monkeypatch)
    with pytest.raises((AssertionError, SacError), match="is misread"):
        run_state_machine_as_test(PoolStory, settings=settings(STORIES, phases=[Phase.generate]))

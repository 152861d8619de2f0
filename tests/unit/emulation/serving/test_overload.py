"""Overload: told from bursts and from long but steady queues."""

import random

import numpy as np
import pytest

from emulation.serving.cluster import simulate
from emulation.serving.overload import find_overload
from emulation.serving.spec import ClusterSpec
from emulation.serving.workload import OpenLoop

SERVICE_NS = 1e9


def queue(arrivals_ns):
    """Waits in one queue with a fixed service time."""
    free_ns, waits = 0.0, []
    for at_ns in arrivals_ns:
        free_ns = max(free_ns, at_ns) + SERVICE_NS
        waits.append(free_ns - at_ns)
    return waits


def poisson(rate, number, seed=1):
    rng = random.Random(seed)
    return np.cumsum([rng.expovariate(rate) * 1e9 for _ in range(number)])


@pytest.mark.parametrize(("rate", "overloaded"), [(0.5, False), (0.9, False), (0.97, False), (1.2, True), (3.0, True)])
def test_a_queue_that_is_served_slower_than_it_grows_is_overload_and_no_other_is(rate, overloaded):
    for seed in range(8):
        arrivals = poisson(rate, 2000, seed)
        assert (find_overload(arrivals, queue(arrivals), 1) is not None) is overloaded


def test_overload_tells_the_rates_and_what_waits():
    arrivals = np.arange(1000) * 0.5e9
    found = find_overload(arrivals, queue(arrivals), 1)
    assert found.arriving == pytest.approx(2.0, rel=0.01)
    assert found.served == pytest.approx(1.0, rel=0.01)
    assert found.waiting == pytest.approx(500, rel=0.02)
    assert found.since_s < 5


def test_overload_begins_where_the_queue_was_last_short():
    arrivals = np.concatenate([np.arange(500) * 2e9, 1000e9 + np.arange(1000) * 0.5e9])
    assert find_overload(arrivals, queue(arrivals), 1).since_s == pytest.approx(1000, abs=5)


def test_a_burst_that_is_worked_off_is_no_overload():
    arrivals = np.concatenate([np.arange(300) * 2e9, 600e9 + np.arange(200) * 0.1e9, 900e9 + np.arange(300) * 2e9])
    assert find_overload(arrivals, queue(arrivals), 1) is None


def test_a_cluster_that_is_asked_for_more_than_it_serves_is_overloaded():
    def found(rate):
        recorder = simulate(ClusterSpec("cxl"), OpenLoop(400, rate, 8192, 64, round_number=1)).recorder
        return find_overload(recorder.arrived_ns, recorder.ttft_ns, 8)

    assert found(0.3) is None
    assert found(3.0).served == pytest.approx(0.6, rel=0.3)

"""Fair links beside their closed forms."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulation.timing.links.fair import NEVER_NS, FairLink


def ends_of(link, requests):
    """Ends by token of (at, work, token) in order of time."""
    ended = []
    for at_ns, work_ns, token in requests:
        link.end_until(at_ns, ended)
        link.submit(at_ns, work_ns, token)
    link.end_until(NEVER_NS - 1, ended)
    return {token: end for end, token in ended}


def test_a_lone_request_is_in_service_at_t_minus_1_and_done_at_t():
    link = FairLink("d0")
    link.submit(100, 250, "a")
    ended = []
    link.end_until(349, ended)
    assert ended == []
    link.end_until(350, ended)
    assert ended == [(350, "a")]
    assert link.next_end_ns == NEVER_NS


def test_third_reader_waits_when_two_saturate_the_link():
    ends = ends_of(FairLink("d0"), [(0, 300, "a"), (0, 300, "b"), (0, 300, "c")])
    assert ends == {"a": 900, "b": 900, "c": 900}


def test_a_short_request_passes_a_long_one_and_delays_it_by_its_own_work():
    ends = ends_of(FairLink("d0"), [(0, 1000, "long"), (100, 50, "short")])
    assert ends == {"short": 200, "long": 1050}


def test_a_late_comer_takes_half_of_what_is_left():
    # 400 of a's 1000 are done at 400; b (300) then ends at 400 + 600 and a at 1300.
    assert ends_of(FairLink("d0"), [(0, 1000, "a"), (400, 300, "b")]) == {"a": 1300, "b": 1000}


def test_unequal_requests_at_once_follow_the_closed_form():
    works = [50, 400, 120, 120, 990]
    ends = ends_of(FairLink("d0"), [(0, work, i) for i, work in enumerate(works)])
    for i, work in enumerate(works):
        assert ends[i] == sum(min(work, other) for other in works)


def test_the_link_works_off_all_it_was_given():
    rng = random.Random(5)
    at, requests = 0, []
    for i in range(2000):
        at += rng.randrange(0, 900)
        requests.append((at, rng.randrange(1, 1000), i))
    link = FairLink("d0")
    ends = ends_of(link, requests)
    busy_ns = link.submit(max(ends.values()), 1)
    assert busy_ns == pytest.approx(sum(work for _, work, _ in requests), abs=1)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 300)), min_size=1, max_size=40))
def test_no_link_serves_faster_than_it_can_nor_idles_with_work_left(gaps_and_works):
    at, requests = 0, []
    for number, (gap, work) in enumerate(gaps_and_works):
        at += gap
        requests.append((at, work, number))
    link = FairLink("d0")
    ends = ends_of(link, requests)
    for at_ns, work, number in requests:
        assert ends[number] >= at_ns + work
    for time_ns in ends.values():
        done = sum(work for _, work, number in requests if ends[number] <= time_ns)
        assert done <= time_ns - requests[0][0]
    idle_from = 0  # the busy period's end, by the work that came: Lindley
    for at_ns, work, _ in requests:
        idle_from = max(idle_from, at_ns) + work
    assert max(ends.values()) == idle_from


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_mean_time_under_random_arrivals_is_that_of_processor_sharing(utilisation):
    # M/G/1 processor sharing: mean time = work / (1 - utilisation), for whatever spread of work.
    rng = random.Random(11)
    at, requests = 0.0, []
    for i in range(60_000):
        at += rng.expovariate(utilisation / 1000)
        requests.append((int(at), 1000, i))
    ends = ends_of(FairLink("d0"), requests)
    mean = sum(ends[i] - at_ns for at_ns, _, i in requests) / len(requests)
    assert mean == pytest.approx(1000 / (1 - utilisation), rel=0.05)


def test_the_tail_grows_faster_than_the_mean():
    def percentiles(utilisation):
        rng = random.Random(3)
        at, requests = 0.0, []
        for i in range(20_000):
            at += rng.expovariate(utilisation / 1000)
            requests.append((int(at), 1000, i))
        ends = ends_of(FairLink("d0"), requests)
        times = sorted(ends[i] - at_ns for at_ns, _, i in requests)
        return sum(times) / len(times), times[int(0.99 * len(times))]

    (mean_low, tail_low), (mean_high, tail_high) = percentiles(0.2), percentiles(0.85)
    assert tail_high / tail_low > mean_high / mean_low > 2

"""Fair links beside their closed forms."""

import random

import pytest

from emulation.timing.link import NEVER_NS, FairLink


def ends_of(link, requests):
    """Ends by token of (at, work, token) in order of time."""
    ends = {}
    for at_ns, work_ns, token in requests:
        ends |= {token_: end for end, token_ in link.end_until(at_ns)}
        link.submit(at_ns, work_ns, token)
    return ends | {token_: end for end, token_ in link.end_until(NEVER_NS - 1)}


def test_a_lone_request_is_in_service_at_t_minus_1_and_done_at_t():
    link = FairLink("d0")
    link.submit(100, 250, "a")
    assert link.end_until(349) == []
    assert link.end_until(350) == [(350, "a")]
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
    assert link.busy_ns(max(ends.values())) == pytest.approx(sum(work for _, work, _ in requests), abs=1)


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

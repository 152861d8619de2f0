"""Arrivals beside their closed forms, and prefixes that are found again."""

import itertools
from statistics import mean, pvariance

import pytest

from emulation.errors import InputError
from emulation.serving.prefixes import PrefixStore, has_reuse
from emulation.serving.workload import ClosedLoop, OpenLoop, Request


def gaps(workload):
    times = [0.0, *(request.arrival_ns for request in workload.requests())]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_mean_and_variance_of_their_law(burstiness):
    found = gaps(OpenLoop(40_000, 2.0, 100, 10, burstiness, seed=3))
    assert mean(found) == pytest.approx(0.5e9, rel=0.03)
    assert pvariance(found) == pytest.approx(0.25e18 / burstiness, rel=0.08)


def test_same_seed_gives_the_same_arrivals_and_another_seed_others():
    def arrivals(seed):
        return list(OpenLoop(50, 2.0, 100, 10, seed=seed).requests())

    assert arrivals(1) == arrivals(1)
    assert arrivals(1) != arrivals(2)


def test_round_2_finds_its_prefixes_and_round_1_does_not():
    assert all(request.cached for request in ClosedLoop(3, 1, 100, 10, 2).requests())
    assert not any(request.cached for request in ClosedLoop(3, 1, 100, 10, 1).requests())


@pytest.mark.parametrize("field", ["num_prompts", "max_concurrency", "prompt_len", "output_len"])
def test_a_closed_loop_of_nothing_is_refused(field):
    sizes = {"num_prompts": 1, "max_concurrency": 1, "prompt_len": 1, "output_len": 1} | {field: 0}
    with pytest.raises(InputError, match=f"{field}=0 must be a number above 0"):
        ClosedLoop(**sizes)


def asking(*blocks, prompt_len=None):
    return Request(0.0, prompt_len or 512 * len(blocks), 1, blocks)


def test_a_prefix_hits_up_to_its_first_unknown_block():
    store = PrefixStore(100, 512)
    assert store.cached_tokens(asking(1, 2, 3)) == 0
    assert store.cached_tokens(asking(1, 2, 9, 3)) == 1024


def test_a_prompt_that_is_known_whole_still_computes_its_last_token():
    store = PrefixStore(100, 512)
    store.cached_tokens(asking(1, 2, prompt_len=1000))
    assert store.cached_tokens(asking(1, 2, prompt_len=1000)) == 999


def test_the_block_used_least_recently_goes_first():
    store = PrefixStore(3, 512)
    for blocks in ((1,), (2,), (3,), (1,), (4,)):
        store.cached_tokens(asking(*blocks))
    assert store.cached_tokens(asking(1, 99)) == 512
    assert PrefixStore(3, 512).cached_tokens(asking(2)) == 0


def test_a_long_prefix_keeps_its_beginning():
    store = PrefixStore(2, 512)
    store.cached_tokens(asking(1, 2, 3, 4))
    assert store.cached_tokens(asking(1, 2, 3, 4)) == 1024


def test_blocks_count_the_tokens_that_they_hold():
    store = PrefixStore(100, 16)
    store.cached_tokens(asking(1, 2, prompt_len=32))
    assert store.cached_tokens(asking(1, 9, prompt_len=32)) == 16


def test_a_prompt_that_begins_as_one_before_it_is_reuse():
    assert has_reuse([asking(1, 2), asking(3), asking(1, 4)])
    assert not has_reuse([asking(1, 2), asking(2, 1), Request(0.0, 5, 1)])


@pytest.mark.parametrize("field", ["request_rate", "burstiness"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1e-300, 1e300, float("inf"), float("nan")])
def test_a_law_of_arrivals_that_no_clock_follows_is_refused(field, value):
    law = {"num_prompts": 1, "request_rate": 1.0, "prompt_len": 1, "output_len": 1} | {field: value}
    with pytest.raises(InputError, match=f"OpenLoop: {field}=.* must be a number from"):
        OpenLoop(**law)

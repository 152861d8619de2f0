"""Arrivals beside their closed forms, and the replay of an excerpt of a trace."""

import itertools
from pathlib import Path
from statistics import mean, pvariance

import pytest

from emulation.errors import InputError
from emulation.serving.prefixes import PrefixStore
from emulation.serving.workload import ClosedLoop, OpenLoop, Request, TraceReplay

EXCERPT = Path(__file__).parent / "mooncake_excerpt.jsonl"


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


def test_trace_lines_are_read_as_recorded():
    replay = TraceReplay.from_file(EXCERPT)
    assert replay.num_prompts == 24
    first = next(replay.requests())
    assert (first.arrival_ns, first.prompt_len, first.output_len) == (0.0, 6758, 500)
    assert first.hash_ids == tuple(range(14))


def test_a_looped_trace_goes_on_in_time_with_blocks_of_its_own():
    replay = TraceReplay.from_file(EXCERPT, num_prompts=60)
    requests = list(replay.requests())
    assert len(requests) == 60
    assert [r.arrival_ns for r in requests] == sorted(r.arrival_ns for r in requests)
    first_loop = {block for request in requests[:24] for block in request.hash_ids}
    second_loop = {block for request in requests[24:48] for block in request.hash_ids}
    assert not first_loop & second_loop
    assert [r.prompt_len for r in requests[24:48]] == [r.prompt_len for r in requests[:24]]


def test_rate_scale_shortens_the_gaps():
    slow, fast = (list(TraceReplay.from_file(EXCERPT, 48, scale).requests()) for scale in (1.0, 4.0))
    assert fast[-1].arrival_ns == pytest.approx(slow[-1].arrival_ns / 4)


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [0]}\n{"timestamp": 1}\n')
    with pytest.raises(InputError, match=r"line 2.*input_length"):
        TraceReplay.from_file(path)


def test_an_absent_or_empty_trace_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        TraceReplay.from_file(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("# nothing\n")
    with pytest.raises(InputError, match="holds no request"):
        TraceReplay.from_file(tmp_path / "empty.jsonl")


@pytest.mark.parametrize("field", ["num_prompts", "max_concurrency", "prompt_len", "output_len"])
def test_a_closed_loop_of_nothing_is_refused(field):
    sizes = {"num_prompts": 1, "max_concurrency": 1, "prompt_len": 1, "output_len": 1} | {field: 0}
    with pytest.raises(InputError, match=f"{field}=0 must be a number above 0"):
        ClosedLoop(**sizes)


def asking(*blocks, prompt_len=None):
    return Request(0.0, prompt_len or 512 * len(blocks), 1, blocks)


def test_a_prefix_hits_up_to_its_first_unknown_block():
    store = PrefixStore(100)
    assert store.cached_tokens(asking(1, 2, 3)) == 0
    assert store.cached_tokens(asking(1, 2, 9, 3)) == 1024


def test_a_prompt_that_is_known_whole_still_computes_its_last_token():
    store = PrefixStore(100)
    store.cached_tokens(asking(1, 2, prompt_len=1000))
    assert store.cached_tokens(asking(1, 2, prompt_len=1000)) == 999


def test_the_block_used_least_recently_goes_first():
    store = PrefixStore(3)
    for blocks in ((1,), (2,), (3,), (1,), (4,)):
        store.cached_tokens(asking(*blocks))
    assert store.cached_tokens(asking(1, 99)) == 512
    assert PrefixStore(3).cached_tokens(asking(2)) == 0


def test_a_long_prefix_keeps_its_beginning():
    store = PrefixStore(2)
    store.cached_tokens(asking(1, 2, 3, 4))
    assert store.cached_tokens(asking(1, 2, 3, 4)) == 1024

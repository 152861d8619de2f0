"""Traces replayed: as recorded, in loops, faster, at other arrivals, and turn after turn."""

from pathlib import Path

import pytest

from emulation.errors import InputError
from emulation.serving.cluster import simulate
from emulation.serving.replay import TraceReplay, replay_of, turns_of
from emulation.serving.spec import ClusterSpec
from emulation.serving.traces.reading import read_trace

EXCERPT = Path(__file__).parent / "mooncake_excerpt.jsonl"


@pytest.fixture(scope="module")
def excerpt():
    return read_trace(EXCERPT)


@pytest.fixture
def trace_of(tmp_path):
    def trace_of(text):
        path = tmp_path / "trace"
        path.write_text(text)
        return read_trace(path)

    return trace_of


def test_a_trace_is_replayed_as_recorded(excerpt):
    replay = replay_of(excerpt)
    assert replay.num_prompts == 24
    first = next(replay.requests())
    assert (first.arrival_ns, first.prompt_len, first.output_len) == (0.0, 6758, 500)
    assert first.hash_ids == tuple(range(14))


def test_a_looped_trace_goes_on_in_time_with_blocks_of_its_own(excerpt):
    requests = list(replay_of(excerpt, 60).requests())
    assert len(requests) == 60
    assert [r.arrival_ns for r in requests] == sorted(r.arrival_ns for r in requests)
    first_loop = {block for request in requests[:24] for block in request.hash_ids}
    second_loop = {block for request in requests[24:48] for block in request.hash_ids}
    assert not first_loop & second_loop
    assert [r.prompt_len for r in requests[24:48]] == [r.prompt_len for r in requests[:24]]


def test_rate_scale_shortens_the_gaps(excerpt):
    slow, fast = (list(replay_of(excerpt, 48, scale).requests()) for scale in (1.0, 4.0))
    assert fast[-1].arrival_ns == pytest.approx(slow[-1].arrival_ns / 4)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_number_above_0_is_refused(excerpt, scale):
    with pytest.raises(InputError, match=r"rate_scale=.* must be a number above 0"):
        replay_of(excerpt, rate=scale)


def test_a_replay_that_would_take_ages_is_refused(excerpt):
    with pytest.raises(InputError, match=r"rate_scale=1e-300 .*stretch the replay"):
        replay_of(excerpt, rate=1e-300)
    with pytest.raises(InputError, match=r"num_prompts=1000000000000.* stretch the replay"):
        replay_of(excerpt, 10**18)


WITHOUT_TIMES = '{"input_length": 600, "output_length": 4}\n' * 5


def test_a_trace_without_times_is_a_closed_loop_or_comes_at_a_rate(trace_of):
    trace = trace_of(WITHOUT_TIMES)
    assert replay_of(trace, concurrency=3).max_concurrency == 3
    arrivals = [request.arrival_ns for request in replay_of(trace, 9, rate=2.0, seed=4).requests()]
    assert len(set(arrivals)) == 9 and arrivals == sorted(arrivals)
    with pytest.raises(InputError, match="records no arrivals"):
        TraceReplay(trace, 5)


def test_burstiness_means_nothing_to_a_trace_with_times(excerpt):
    with pytest.raises(InputError, match=r"burstiness=0\.5 shapes arrivals; the trace has its own"):
        replay_of(excerpt, burstiness=0.5)


SESSION = """{"session_id": "s", "timestamp": 0, "input_length": 1000, "output_length": 10}
{"session_id": "s", "input_length": 500, "output_length": 20, "delay": 4000}
{"session_id": "s", "timestamp": 90000, "input_length": 300, "output_length": 30}
"""


def test_turns_come_after_the_one_before_and_its_delay(trace_of):
    outcome = simulate(ClusterSpec("cxl"), replay_of(trace_of(SESSION)))
    alone = simulate(ClusterSpec("cxl"), replay_of(trace_of(SESSION), 1))
    ends = [outcome.recorder.e2e_ns[0], outcome.recorder.finished_ns - outcome.recorder.e2e_ns[2]]
    assert outcome.recorder.completed == 3
    assert ends == pytest.approx([alone.recorder.finished_ns, 90e9])
    assert outcome.recorder.num_input_tokens == 1000 + 1510 + 1830
    assert outcome.num_cached_tokens == 512 + 2 * 512  # whole blocks of the prompts before, answers left out


def test_a_delay_counts_from_the_end_of_the_turn_before(trace_of):
    two = "".join(SESSION.splitlines(keepends=True)[:2])
    ends = {
        delay: simulate(ClusterSpec("cxl"), replay_of(trace_of(two.replace("4000", str(delay))))).recorder.finished_ns
        for delay in (0, 4000, 8000)
    }
    assert ends[4000] - ends[0] == pytest.approx(4e9)
    assert ends[8000] - ends[4000] == pytest.approx(4e9)


def test_a_count_of_requests_cuts_a_session(trace_of):
    (first,) = replay_of(trace_of(SESSION), 2).requests()
    assert len(list(turns_of(first))) == 2
    assert simulate(ClusterSpec("dram"), replay_of(trace_of(SESSION), 7)).recorder.completed == 7


def test_sessions_in_a_closed_loop_follow_one_another(trace_of):
    trace = trace_of(SESSION.replace('"timestamp": 0, ', "").replace('"timestamp": 90000, ', ""))
    outcome = simulate(ClusterSpec("cxl"), replay_of(trace, 6, concurrency=1))
    assert outcome.recorder.completed == 6
    assert outcome.recorder.summary().concurrency < 1  # delays between turns


def test_a_trace_of_nearly_ten_years_is_replayed_once_but_not_twice(trace_of):
    lines = (f'{{"timestamp": {at}, "input_length": 9, "output_length": 1}}\n' for at in (0, 315_000_000_000))
    trace = trace_of("".join(lines))
    assert replay_of(trace).num_prompts == 2
    with pytest.raises(InputError, match="stretch the replay"):
        replay_of(trace, 4)

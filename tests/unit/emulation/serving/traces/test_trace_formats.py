"""Every format that the field publishes traces in: told by its content, read by its own fields."""

import json

import pytest

from emulation.errors import InputError
from emulation.serving.traces.formats import FORMATS
from emulation.serving.traces.reading import read_trace


def lines(*objects):
    return "\n".join(map(json.dumps, objects))


SERVINGSIM = {"input_toks": 20, "output_toks": 3, "arrival_time_ns": 2_000_000, "input_tok_ids": list(range(20))}
CONVERSATION = {"id": "a", "conversations": [{"from": "human", "value": "x" * 400}, {"from": "gpt", "value": "y" * 80}]}
BAILIAN = {
    "chat_id": 1, "parent_chat_id": -1, "timestamp": 61.5, "input_length": 40, "output_length": 2, "turn": 1, "hash_ids": [4, 5, 6],
}  # fmt: skip
TEXTS = {
    "mooncake": lines({"timestamp": 5, "input_length": 700, "output_length": 2, "hash_ids": [0, 1], "priority": 1}),
    "bailian": lines(BAILIAN, BAILIAN | {"chat_id": 2, "timestamp": 62.0}),
    "llmservingsim": lines(SERVINGSIM, SERVINGSIM | {"arrival_time_ns": 0}),
    "sharegpt": json.dumps([CONVERSATION, {"id": "b", "conversations": []}], indent=1),
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:04.0319600,3180,8\r\n"
    "2023-11-16 18:17:03.9799600,4808,10\r\n",
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    '5,ChatGPT,472,18,490,"Conversation log"\n45.5,GPT-4,100,0,100,API log\n',
}


@pytest.fixture
def read(tmp_path):
    def read(text, **options):
        path = tmp_path / "trace"
        path.write_text(text, newline="")
        return read_trace(path, **options)

    return read


@pytest.mark.parametrize("name", [form.name for form in FORMATS])
def test_a_format_is_told_by_its_content(read, name):
    assert read(TEXTS[name]).counts.format == name
    assert read("\ufeff" + TEXTS[name]).counts.format == name


def test_bailians_times_are_seconds_and_its_blocks_of_16(read):
    trace = read(TEXTS["bailian"])
    assert [request.arrival_ns for request in trace.requests] == [0, 0.5e9]
    assert trace.block_tokens == 16


def test_servingsims_times_are_ns_and_its_blocks_are_named_by_their_tokens(read):
    first, second = read(TEXTS["llmservingsim"]).requests
    assert (first.arrival_ns, second.arrival_ns) == (0, 2_000_000)
    assert first.hash_ids == second.hash_ids and len(first.hash_ids) == 2
    other = SERVINGSIM | {"input_tok_ids": [*range(16), 99, 98, 97, 96]}
    first, second = read(lines(SERVINGSIM, other)).requests
    assert first.hash_ids[0] == second.hash_ids[0] and first.hash_ids[1] != second.hash_ids[1]


def test_sharegpts_lengths_are_assumed_and_say_so(read):
    trace = read(TEXTS["sharegpt"])
    assert [(request.prompt_len, request.output_len) for request in trace.requests] == [(100, 20)]
    assert (trace.counts.characters_per_token, trace.counts.no_request) == (4, 1)
    assert not trace.timed


def test_azures_dates_count_from_the_first(read):
    trace = read(TEXTS["azure"])
    assert [request.prompt_len for request in trace.requests] == [4808, 3180]
    assert trace.requests[1].arrival_ns == pytest.approx(52e6, abs=1e3)


def test_burstgpts_seconds_and_failures(read):
    trace = read(TEXTS["burstgpt"])
    assert [request.arrival_ns for request in trace.requests] == [0, 40.5e9]
    assert trace.counts.prefill_only == 1


@pytest.mark.parametrize("text", ["hello\nworld", '{"prompt": "x"}', "a,b,c\n1,2,3", "[1, 2]", '"text"', "\0\0", "{}"])
def test_an_unknown_format_is_named_with_those_that_are_known(read, text):
    with pytest.raises(InputError, match=r"line 1: .* begins no trace that is known; known are mooncake") as caught:
        read(text)
    assert all(f"{form.name} (" in str(caught.value) for form in FORMATS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXTS["azure"] + "2023-11-16 18:17:04,5\n", "line 4: 2 values for 3 columns"),
        (TEXTS["azure"] + "yesterday,5,5\n", "line 4: TIMESTAMP=.yesterday. must be a time"),
        (TEXTS["azure"] + "2023-11-16 18:17:04,5.0,5\n", "line 4: ContextTokens=.5.0. must be a whole number"),
        (TEXTS["azure"] + "2023-11-16 18:17:04,5,-1\n", "line 4: GeneratedTokens=.-1. must be a whole number"),
        (TEXTS["azure"] + '2023-11-16 18:17:04,"5,5\n', "line 4: is no row of a table"),
        (TEXTS["burstgpt"] + "inf,GPT-4,5,5,10,API log\n", "line 4: Timestamp=.inf. must be a time"),
        (TEXTS["burstgpt"] + "1,GPT-4,\u0665,5,10,API log\n", "line 4: Request tokens=.*must be a whole number"),
        (lines(SERVINGSIM | {"input_toks": 19}), "line 1: input_tok_ids: 20 tokens, but input_toks=19"),
        (lines(SERVINGSIM | {"sub_requests": []}), "line 1: sub_requests are not read"),
        (json.dumps([CONVERSATION, 5]), "conversation 2: 5 is no JSON object"),
        (json.dumps([CONVERSATION, {"conversations": "hi"}]), "conversation 2: conversations=.hi. must be a list"),
        (json.dumps([{"conversations": [{"value": 1}, {"value": "b"}]}]), "conversation 1: value=1 of a turn must be text"),
        (lines({"timestamp": 0, "text_input": "hello"}), "line 1: text_input holds text, whose length"),
        (lines(BAILIAN | {"output_length": None}), "line 1: output_length is missing"),
    ],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_refused_by_place_and_field(read, text, words):
    with pytest.raises(InputError, match=words):
        read(text)


@pytest.mark.parametrize("written", ["1_0", "٥", "nan", "inf", "1e400", "-5", "0x5", ""])
def test_a_time_that_only_python_reads_is_refused(read, written):
    with pytest.raises(InputError, match=r"line 2: Timestamp=.* must be a time"):
        read(TEXTS["burstgpt"].replace("\n5,", f"\n{written},"))


@pytest.mark.parametrize("column", ["TIMESTAMP", "ContextTokens", "GeneratedTokens"])
def test_a_column_that_stands_twice_is_refused(read, column):
    text = TEXTS["azure"].replace("\r\n", ",7\r\n").replace("Tokens,7", f"Tokens,{column}", 1)
    with pytest.raises(InputError, match=f"line 1: column {column} stands twice; keep one"):
        read(text)

"""What a trace may hold and what each thing means: what is wrong is refused by file, line, field and rule, the rest is counted."""

import json

import pytest

from emulation.errors import InputError
from emulation.serving.replay import turns_of
from emulation.serving.traces.reading import read_trace


def line(**changes):
    """A line of Mooncake's format of two blocks; a change to ... leaves the field out."""
    fields = {"timestamp": 0, "input_length": 1024, "output_length": 5, "hash_ids": [0, 1]} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...})


@pytest.fixture
def read(tmp_path):
    def read(*lines, **options):
        path = tmp_path / "trace.jsonl"
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        return read_trace(path, **options)

    return read


def refused(read, *lines, **options):
    with pytest.raises(InputError) as caught:
        read(*lines, **options)
    assert "trace.jsonl" in str(caught.value)
    assert str(caught.value).isascii()
    return str(caught.value)


REFUSED_FIELDS = {
    "no number": ("timestamp", float("nan")),
    "no end": ("timestamp", float("inf")),
    "before the beginning": ("timestamp", -1),
    "a time as text": ("timestamp", "0"),
    "a time that is true": ("timestamp", True),
    "a time in microseconds since 1970": ("timestamp", 1_700_158_623_979_000),
    "a time of many digits": ("timestamp", 10**400),
    "a length as text": ("input_length", "1024"),
    "half a token": ("input_length", 1024.5),
    "a count with a point": ("input_length", 1024.0),
    "a length that is true": ("output_length", True),
    "a negative length": ("output_length", -5),
    "an empty prompt": ("input_length", 0),
    "a length without end": ("output_length", float("inf")),
    "a length of many digits": ("input_length", 10**400),
    "a length of null": ("input_length", None),
    "no length": ("input_length", ...),
    "ids as text": ("hash_ids", "01"),
    "an id as text": ("hash_ids", ["0", 1]),
    "an id that is true": ("hash_ids", [True, 1]),
    "an id with a point": ("hash_ids", [0.0, 1]),
    "a negative id": ("hash_ids", [-1, 1]),
    "an id above 64 bits": ("hash_ids", [1 << 64, 1]),
    "an id of null": ("hash_ids", [None, 1]),
    "ids as an object": ("hash_ids", {"0": 1}),
    "a session of lists": ("session_id", []),
    "a negative delay": ("delay", -1),
    "a delay without end": ("delay", float("inf")),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_FIELDS)
def test_a_value_that_a_field_cannot_have_is_refused_by_line_and_field(read, name):
    field, value = REFUSED_FIELDS[name]
    assert f"line 3: {field}" in refused(read, line(), "", line(**{field: value}))


REFUSED_TEXTS = {
    "cut off": ('{"timestamp": 0, "input_length": 10', "no JSON from character"),
    "more behind it": (line() + " {}", "no JSON from character"),
    "a list": ("[1]", "is no JSON object"),
    "a number": ("5", "is no JSON object"),
    "a key twice": ('{"timestamp": 0, "timestamp": 5, "input_length": 10, "output_length": 1}', '"timestamp" stands twice'),
    "nested without end": ('{"timestamp": ' + "[" * 100_000, "nested too deeply"),
    "a number of 5000 digits": ('{"timestamp": ' + "9" * 5000 + "}", "several thousand digits"),
    "1e400": (line().replace('"timestamp": 0', '"timestamp": 1e400'), "timestamp=Infinity must be a number of ms"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_TEXTS)
def test_a_line_that_is_none_is_refused_in_our_words(read, name):
    text, words = REFUSED_TEXTS[name]
    message = refused(read, line(), text)
    assert "line 2: " in message and words in message
    assert len(message) < 400


def test_a_lone_surrogate_in_a_name_or_a_value_reaches_no_terminal(read):
    assert r"\ud800" in refused(read, line(timestamp="\ud800"))
    assert read(line(session_id="\ud800")).num_requests == 1


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00}\x00", b'\n\n{"timestamp": \xed\xa0\x80}', "{}".encode("utf-16")])
def test_bytes_that_are_no_utf_8_are_refused_by_line(tmp_path, content):
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"trace\.jsonl, line \d: byte 0x.. is no UTF-8"):
        read_trace(path)


@pytest.mark.parametrize(
    ("magic", "name"), [(b"\x1f\x8b\x08", "gzip"), (b"PK\x03\x04", "zip"), (b"\x28\xb5\x2f\xfd", "zstd")]
)
def test_a_packed_file_is_not_unpacked(tmp_path, magic, name):
    path = tmp_path / "trace.jsonl"
    path.write_bytes(magic + bytes(100))
    with pytest.raises(InputError, match=rf"is packed \({name}\); unpack it first"):
        read_trace(path)


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path / "absent.jsonl", tmp_path, tmp_path / ("long" * 100)):
        with pytest.raises(InputError, match=r"no such file|is no file|cannot be read"):
            read_trace(path)


def test_a_file_of_remarks_holds_no_request(read):
    assert "holds no request" in refused(read, "# nothing", "", "   ")


def test_ids_of_another_block_size_are_counted_by_the_size_that_all_lines_fit(read):
    trace = read(line(input_length=128, hash_ids=[0, 1]), line(input_length=1000, hash_ids=list(range(16))))
    assert trace.block_tokens == trace.counts.block_tokens == 64


def test_a_block_size_that_is_given_takes_the_place_of_the_formats(read):
    assert read(line(input_length=48, hash_ids=[0]), block_tokens=48).block_tokens == 48
    assert "line 1: hash_ids: 2 ids for 1024 tokens, which are 4 blocks of 256" in refused(
        read, line(), block_tokens=256
    )
    assert "block_tokens=0 must lie in" in refused(read, line(), block_tokens=0)


@pytest.mark.parametrize("ids", [[0], [0, 1, 2], [0, 1, 2, 3, 4]])
def test_a_line_whose_ids_are_not_those_of_its_length_is_refused_with_both_numbers(read, ids):
    message = refused(read, line(), line(hash_ids=ids))
    assert f"line 2: hash_ids: {len(ids)} ids for 1024 tokens, which are 2 blocks of 512" in message


def test_a_block_size_that_lengths_do_not_tell_is_asked_for(read):
    message = refused(read, line(input_length=600, hash_ids=[0]))
    assert "1 ids for 600 tokens" in message and "all lines fit 1024, 2048" in message


def test_lines_in_any_order_are_replayed_by_time_and_counted(read):
    trace = read(*(line(timestamp=at) for at in (60_000, 0, 30_000, 10_000)))
    assert [request.arrival_ns for request in trace.requests] == [0, 10e9, 30e9, 60e9]
    assert trace.counts.out_of_order == 3


def test_times_count_from_the_first_arrival(read):
    trace = read(*(line(timestamp=1_700_158_623_979 + at) for at in (500, 0, 1500.5)))
    assert [request.arrival_ns for request in trace.requests] == [0, 0.5e9, 1.5005e9]
    assert (trace.counts.first_arrival_ms, trace.counts.span_s) == (1_700_158_623_979, 1.5005)


def test_times_of_two_clocks_are_refused(read):
    assert "line 2: arrives 54 years before the last" in refused(read, line(timestamp=1_700_158_623_979), line())


def test_a_length_above_the_models_context_is_left_out_and_counted(read):
    trace = read(line(), line(input_length=1500, hash_ids=[0, 1, 2]), context_tokens=1504)
    assert trace.num_requests == 1
    assert (trace.counts.entries, trace.counts.above_context) == (2, 1)
    assert read(line(output_length=480), context_tokens=1504).num_requests == 1
    assert "no request fits context_tokens=1504" in refused(read, line(output_length=481), context_tokens=1504)


def test_an_output_of_0_is_a_prefill_that_yields_one_token_and_counted(read):
    trace = read(line(), line(output_length=0))
    assert [request.output_len for request in trace.requests] == [5, 1]
    assert trace.counts.prefill_only == 1


def test_outputs_that_are_not_recorded_are_the_median_of_the_others_and_counted(read):
    trace = read(line(output_length=3), line(output_length=...), line(output_length=9), line(output_length=7))
    assert [request.output_len for request in trace.requests] == [3, 7, 9, 7]
    assert (trace.counts.assumed_outputs, trace.counts.assumed_output_tokens) == (1, 7)


def test_outputs_that_no_line_records_are_asked_for(read):
    bare = line(output_length=None)
    assert "no line has an output length" in refused(read, bare)
    assert read(bare, output_tokens=11).requests[0].output_len == 11


def test_prompts_without_hash_ids_are_new_ones_and_counted(read):
    trace = read(line(hash_ids=...), line(hash_ids=None), line(hash_ids=[]))
    assert all(request.hash_ids == () for request in trace.requests)
    assert (trace.counts.no_hash_ids, trace.counts.block_tokens) == (3, None)


def test_a_trace_without_any_time_has_none_and_one_with_some_is_refused(read):
    assert not read(line(timestamp=...), line(timestamp=None)).timed
    assert "line 2: no time of arrival is recorded" in refused(read, line(), line(timestamp=...))


def test_a_turns_prompt_is_all_that_was_said_before_and_its_own(read):
    first = line(session_id="s", input_length=1200, output_length=100, hash_ids=[0, 1, 2])
    trace = read(first, line(session_id="s", timestamp=..., delay=2500, hash_ids=[7, 8]), line(timestamp=5000))
    turns = list(turns_of(trace.requests[0]))
    assert [turn.prompt_len for turn in turns] == [1200, 1200 + 100 + 1024]
    assert turns[1].delay_ns == 2.5e9
    assert turns[1].hash_ids[:2] == (0, 1)  # the third block was partly full, and goes on otherwise
    assert len(set(turns[1].hash_ids[2:]) - {0, 1, 2, 7, 8}) == 3
    assert (trace.num_requests, trace.counts.sessions) == (3, 2)


def test_a_session_ends_before_its_first_turn_above_the_context(read):
    turns = [line(session_id=1, timestamp=0 if number == 0 else ...) for number in range(4)]
    trace = read(*turns, context_tokens=2100)
    assert len(list(turns_of(trace.requests[0]))) == trace.num_requests == 2
    assert trace.counts.above_context == 2

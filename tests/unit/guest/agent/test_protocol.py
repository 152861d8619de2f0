"""Messages come through whole, and whatever is none is a MessageError: no other error, no memory for bytes that did not come."""

import io
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from guest.agent.errors import MessageError
from guest.agent.protocol import DTYPES, MAGIC, PREFIX, VERSION, Kind, Message, read_message, write_message


def written(*messages):
    sink = io.BytesIO()
    for message in messages:
        write_message(sink, message)
    return sink.getvalue()


class Dribble:
    """A stream that gives a byte or two at a time, as a pipe may."""

    def __init__(self, raw):
        self.raw = io.BytesIO(raw)

    def read(self, size):
        return self.raw.read(min(size, 2))


EXAMPLE = Message(
    Kind.QUERY,
    {"layer": 3},
    {
        "scores": np.arange(5, dtype=np.float32),
        "row": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "none": np.empty(0, np.int64),
    },
)
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
ARRAYS = st.sampled_from(list(DTYPES)).flatmap(lambda dtype: arrays_of.arrays(dtype, SHAPES))
MESSAGES = st.builds(
    Message,
    st.sampled_from(Kind),
    st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=3),
    st.dictionaries(st.text(), ARRAYS, max_size=3),
)


def assert_equal(message, other):
    assert (message.kind, message.fields) == (other.kind, other.fields)
    assert list(message.arrays) == list(other.arrays)
    for name, array in other.arrays.items():
        assert (message.arrays[name].dtype, message.arrays[name].shape) == (array.dtype, array.shape)
        assert message.arrays[name].tobytes() == array.tobytes()


@given(st.lists(MESSAGES, max_size=3))
def test_what_is_written_is_read_message_by_message_until_the_stream_ends(messages):
    source = io.BytesIO(written(*messages))
    for message in messages:
        assert_equal(read_message(source), message)
    assert read_message(source) is None


def test_a_message_may_come_in_pieces():
    assert_equal(read_message(Dribble(written(EXAMPLE))), EXAMPLE)


def test_an_array_that_is_not_contiguous_travels_as_its_values():
    turned = np.arange(12, dtype=np.int64).reshape(3, 4).T
    assert np.array_equal(read_message(io.BytesIO(written(Message(Kind.DONE, {}, {"a": turned})))).arrays["a"], turned)


def test_a_stream_cut_anywhere_within_a_message_is_named_cut_off():
    raw = written(EXAMPLE)
    for size in range(1, len(raw)):
        with pytest.raises(MessageError, match=r"the stream ends .* bytes too early, within the (prefix|head|array)"):
            read_message(io.BytesIO(raw[:size]))


@given(st.data())
def test_bytes_changed_anywhere_give_a_message_or_a_named_error(data):
    raw = bytearray(written(EXAMPLE))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_message(io.BytesIO(bytes(raw)))
    except MessageError as error:
        assert str(error).startswith("message")


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 300))
def test_any_head_and_body_give_a_message_or_a_named_error(rest, head_bytes, body_bytes):
    raw = PREFIX.pack(MAGIC, VERSION, Kind.DONE, head_bytes, body_bytes) + rest
    with pytest.raises(MessageError):
        read_message(io.BytesIO(raw))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)
)


@given(JSON, JSON)
def test_any_json_for_a_head_gives_a_message_or_a_named_error(fields, arrays):
    head = json.dumps({"fields": fields, "arrays": arrays}).encode()
    raw = PREFIX.pack(MAGIC, VERSION, Kind.DONE, len(head), 0) + head
    if isinstance(fields, dict) and arrays == []:
        assert read_message(io.BytesIO(raw)).fields == fields
    else:
        with pytest.raises(MessageError):
            read_message(io.BytesIO(raw))


def framed(head, body=b"", body_bytes=None, magic=MAGIC, version=VERSION, kind=Kind.DONE):
    raw_head = head if isinstance(head, bytes) else json.dumps(head).encode()
    return (
        PREFIX.pack(magic, version, kind, len(raw_head), len(body) if body_bytes is None else body_bytes)
        + raw_head
        + body
    )


def one_array(*spec):
    return {"fields": {}, "arrays": [list(spec)]}


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (framed({}, magic=b"Hell"), "begins with b'Hell', not with b'CXLA'; something else writes to this stream"),
        (framed({}, version=1), "version=1 is not 2; testbed and agent must be of one version"),
        (framed({}, kind=77), "kind=77 is none of 1, 2"),
        (framed({}), "DONE: its head must be an object with 'fields' and 'arrays'"),
        (framed(b"{"), "DONE: its head is no JSON"),
        (framed(b"\xff"), "DONE: its head is no JSON"),
        (framed(b"[" * 100_000), "DONE: its head is no JSON"),
        (framed(one_array("a", "float64", [1]), bytes(8)), r"an array must be \[name, one of uint8"),
        (framed(one_array("a", "uint8", [-1])), "an array must be"),
        (framed(one_array("a", "uint8", [True])), "an array must be"),
        (framed(one_array("a", "uint8", [0, 2**70])), "an array must be"),
        (framed(one_array("a", "uint8", [1, 1, 1, 1, 1]), b"x"), "an array must be"),
        (framed(one_array(["a"], "uint8", [1]), b"x"), "an array must be"),
        (framed({"fields": {}, "arrays": [["a", "uint8", [1]], ["a", "uint8", [1]]]}, b"xy"), "two arrays have one name"),
        (framed(one_array("a", "uint8", [3]), b"xy"), "announces 2 bytes of body, its arrays take 3"),
        (framed(one_array("a", "uint8", [1 << 20, 1 << 20]), body_bytes=1 << 40), "at most .* may come"),
        (PREFIX.pack(MAGIC, VERSION, Kind.DONE, 2**32 - 1, 0), "announces 4294967295 bytes of head"),
    ],
)  # fmt: skip
def test_each_malformed_message_is_refused_with_what_is_wrong(raw, problem):
    with pytest.raises(MessageError, match=problem) as refused:
        read_message(io.BytesIO(raw))
    assert refused.value.exit_status == 2


def test_a_message_that_announces_much_and_brings_little_takes_little_memory():
    raw = framed(one_array("a", "uint8", [1 << 32]), body_bytes=1 << 32) + bytes(100)
    tracemalloc.start()
    with pytest.raises(MessageError, match=f"ends {(1 << 32) - 100} bytes too early, within the array 'a'"):
        read_message(io.BytesIO(raw))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (Message(Kind.DONE, {}, {"a": np.zeros(1)}), "array 'a' is float64; it must be uint8, int32"),
        (Message(Kind.DONE, {"a": "x" * (1 << 20)}), "exceed"),
    ],
)
def test_a_message_that_nobody_could_read_is_not_sent(message, problem):
    sink = io.BytesIO()
    with pytest.raises(MessageError, match=problem):
        write_message(sink, message)
    assert sink.getvalue() == b""


def test_an_array_of_another_dtype_or_shape_is_named_with_both():
    assert EXAMPLE.array("row", "uint8", 2, 3) is EXAMPLE.arrays["row"]
    with pytest.raises(MessageError, match="QUERY: has no array 'tokens'"):
        EXAMPLE.array("tokens", "int64", 2)
    with pytest.raises(MessageError, match=r"array 'row' is uint8 of shape \(2, 3\); it must be uint8 of shape \(6,\)"):
        EXAMPLE.array("row", "uint8", 6)
    with pytest.raises(MessageError, match="it must be int32"):
        EXAMPLE.array("row", "int32", 2, 3)


@pytest.mark.parametrize("value", [-1, 4, 1.0, True, "1", None])
def test_a_number_outside_its_range_is_refused(value):
    assert EXAMPLE.number("layer", 4) == 3
    with pytest.raises(MessageError, match=r"layer=.* must be a whole number from 0 to 3"):
        Message(Kind.FLIP, {"layer": value}).number("layer", 4)


def test_the_page_of_the_protocol_names_every_kind_and_its_number():
    page = (Path(__file__).parents[4] / "docs" / "runtimes.md").read_text()
    rows = re.findall(r"^\| `([A-Z]+)` \| (\d+) \|", page, flags=re.MULTILINE)
    assert {name: int(number) for name, number in rows} == {kind.name: int(kind) for kind in Kind}

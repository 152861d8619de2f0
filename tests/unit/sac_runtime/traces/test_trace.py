"""The trace file: what goes in comes out, its bytes are the documented ones, and damage is named."""

import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from sac_runtime.errors import TraceError
from sac_runtime.traces.format import TraceHeader, TraceReader, TraceStep, TraceWriter, write_trace
from sac_runtime.traces.synthetic import SyntheticSpec, generate

HEADER = TraceHeader(num_layers=2, top_k=4, context_tokens=(6, 300), source="by hand")
STEPS = [
    TraceStep(0, ((np.array([0, 2, 5, 6]), np.array([6])), (np.array([1, 299, 300]), np.array([], dtype=np.int64)))),
    TraceStep(1, ((np.array([3, 4, 5, 7]), np.array([0])), (np.array([300, 301]), np.array([0, 1, 2, 3])))),
]


def positions(steps):
    return [[[tokens.tolist() for tokens in layers] for layers in step.topk] for step in steps]


@pytest.fixture
def trace_path(tmp_path):
    write_trace(tmp_path / "by-hand.trace", HEADER, STEPS)
    return tmp_path / "by-hand.trace"


def test_a_trace_reads_back_as_written_and_more_than_once(trace_path):
    reader = TraceReader(trace_path)
    assert reader.header == HEADER
    assert positions(reader) == positions(STEPS)
    assert positions(reader) == positions(STEPS)
    assert [step.index for step in reader] == [0, 1]


def test_the_bytes_are_the_documented_ones(trace_path):
    raw = trace_path.read_bytes()
    magic, version, header_bytes, header_checksum = struct.unpack_from("<8sIII", raw)
    assert (magic, version) == (b"SACTRACE", 2)
    assert json.loads(raw[20 : 20 + header_bytes])["context_tokens"] == [6, 300]
    assert zlib.crc32(raw[20 : 20 + header_bytes]) == header_checksum
    size, checksum = struct.unpack_from("<II", raw, 20 + header_bytes)
    payload = raw[28 + header_bytes : 28 + header_bytes + size]
    assert zlib.crc32(payload) == checksum
    content = zlib.decompress(payload)
    assert struct.unpack_from("<4I", content) == (4, 1, 3, 0)
    gaps = [0, 1, 2, 0, 6, 1, 297, 0]
    assert list(content[16:]) == [gap >> shift & 0xFF for shift in (0, 8, 16, 24) for gap in gaps]
    assert struct.unpack("<II", raw[-8:]) == (0, 2)


def test_an_entry_of_a_long_context_takes_about_one_byte(tmp_path):
    spec = SyntheticSpec.published(131072, num_layers=4)
    path = tmp_path / "long.trace"
    num_steps = write_trace(path, spec.header(), generate(spec, 10))
    assert path.stat().st_size / (num_steps * 4 * spec.top_k) < 1.05


def test_a_writer_cut_off_leaves_a_file_that_is_refused(tmp_path):
    path = tmp_path / "cut.trace"
    with pytest.raises(RuntimeError), TraceWriter(path, HEADER) as writer:
        writer.write_step(STEPS[0].topk)
        raise RuntimeError("power lost")
    with pytest.raises(TraceError, match="ends after step 0 without an end record"):
        list(TraceReader(path))


@pytest.mark.parametrize("cut", [1, 8, 9, 20])
def test_a_truncated_file_is_refused(trace_path, cut):
    trace_path.write_bytes(trace_path.read_bytes()[:-cut])
    with pytest.raises(TraceError):
        list(TraceReader(trace_path))


def test_a_flipped_bit_in_a_step_is_named(trace_path):
    raw = bytearray(trace_path.read_bytes())
    raw[-12] ^= 1
    trace_path.write_bytes(raw)
    with pytest.raises(TraceError, match="step 1 is damaged"):
        list(TraceReader(trace_path))


def test_no_flipped_bit_goes_unnoticed(trace_path):
    whole = trace_path.read_bytes()
    for bit in range(8 * len(whole)):
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        trace_path.write_bytes(raw)
        with pytest.raises(TraceError):
            list(TraceReader(trace_path))


def test_a_file_that_goes_on_after_its_end_is_refused(trace_path):
    trace_path.write_bytes(trace_path.read_bytes() + b"\0")
    with pytest.raises(TraceError, match="goes on after its end record"):
        list(TraceReader(trace_path))


def raw_step(counts, gaps):
    """A step's record with a right checksum, whatever is in it."""
    shuffled = np.array(gaps, "<u4").view(np.uint8).reshape(-1, 4).T.tobytes()
    payload = zlib.compress(np.array(counts, "<u4").tobytes() + shuffled)
    return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (raw_step([1, 0, 0, 0], [7]), "positions must ascend strictly within"),
        (raw_step([5, 0, 0, 0], [0] * 5), "at most top_k=4"),
        (raw_step([1, 1, 0, 0], [0]), "1 positions, 2 counted"),
        (raw_step([1, 0, 0], [0]), "step 0 is damaged"),
        (struct.pack("<II", 3, zlib.crc32(b"xyz")) + b"xyz", "step 0 is damaged"),
    ],
)
def test_a_step_that_no_writer_writes_is_refused_whatever_its_checksum(tmp_path, record, message):
    path = tmp_path / "crafted.trace"
    with TraceWriter(path, HEADER):
        pass
    path.write_bytes(path.read_bytes()[:-8] + record + struct.pack("<II", 0, 1))
    with pytest.raises(TraceError, match=message):
        list(TraceReader(path))


@pytest.mark.parametrize("changed", [{"num_layers": 2.5}, {"top_k": True}, {"context_tokens": (6, 1.5)}])
def test_a_header_holds_whole_numbers(changed):
    with pytest.raises(TraceError, match=next(iter(changed))):
        TraceHeader(**{**vars(HEADER), **changed})


def test_positions_are_integers(tmp_path):
    good = np.array([0])
    with TraceWriter(tmp_path / "bad.trace", HEADER) as writer, pytest.raises(TraceError, match="must be integers"):
        writer.write_step(((good, np.array([1.7, 3.9])), (good, good)))


def test_another_version_is_refused_with_both_named(trace_path):
    raw = bytearray(trace_path.read_bytes())
    raw[8] = 1
    trace_path.write_bytes(raw)
    with pytest.raises(TraceError, match="version=1, this reader knows 2"):
        TraceReader(trace_path)


@pytest.mark.parametrize("content", [b"", b"PNG", b"SACTRACE" + struct.pack("<III", 2, 2, zlib.crc32(b"{}")) + b"{}"])
def test_a_file_that_is_no_trace_is_refused(tmp_path, content):
    (tmp_path / "foreign").write_bytes(content)
    with pytest.raises(TraceError):
        TraceReader(tmp_path / "foreign")


@pytest.mark.parametrize(
    "tokens", [[1, 0], [1, 1], [-1, 0], [0, 7], [0, 1, 2, 3, 4], [[0, 1]]], ids=lambda tokens: str(tokens)
)
def test_a_set_that_is_no_top_k_is_refused_with_its_place(tmp_path, tokens):
    good = np.array([0])
    with (
        TraceWriter(tmp_path / "bad.trace", HEADER) as writer,
        pytest.raises(TraceError, match="step 0, request 0, layer 1"),
    ):
        writer.write_step(((good, np.array(tokens)), (good, good)))


def test_a_step_with_a_layer_missing_is_refused(tmp_path):
    good = np.array([0])
    with TraceWriter(tmp_path / "bad.trace", HEADER) as writer, pytest.raises(TraceError, match=r"\[2, 1\]"):
        writer.write_step(((good, good), (good,)))


def with_header(path, header, rest=b""):
    """A file with this header and a right checksum, whatever is in it."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<8sIII", b"SACTRACE", 2, len(encoded), zlib.crc32(encoded)) + encoded + rest)
    return path


WHOLE_HEADER = {"num_layers": 2, "top_k": 4, "context_tokens": [6, 300], "source": "by hand"}


@pytest.mark.parametrize(
    "changed",
    [
        {"num_layers": 1 << 32},
        {"num_layers": 10**400},
        {"num_layers": 0},
        {"num_layers": "2"},
        {"top_k": 1 << 32},
        {"top_k": 1 << 64},
        {"top_k": float("inf")},
        {"context_tokens": [6, 1 << 40]},
        {"context_tokens": [6, -1]},
        {"context_tokens": []},
        {"context_tokens": 6},
        {"context_tokens": {"6": 300}},
        {"context_tokens": [1 << 24] * 200},
        {"num_layers": 1000, "context_tokens": [6] * 1000},
        {"source": [0]},
        {"more": 1},
    ],
    ids=str,
)
def test_a_header_of_what_no_model_has_is_refused_before_anything_is_built(tmp_path, changed):
    path = with_header(tmp_path / "crafted.trace", WHOLE_HEADER | changed)
    with pytest.raises(TraceError, match=r"crafted\.trace: .*header.*record or generate it anew") as caught:
        TraceReader(path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("header", [b"[" * 100_000, b"\xff\xfe", b"{}", b"5", b'{"num_layers": ' + b"9" * 5000 + b"}"])
def test_a_header_that_is_no_object_of_ours_is_refused_in_our_words(tmp_path, header):
    with pytest.raises(TraceError, match=r"header (is no JSON|must be a JSON object with num_layers)"):
        TraceReader(with_header(tmp_path / "crafted.trace", header))


def test_a_size_beyond_the_file_reserves_no_memory(tmp_path):
    path = with_header(tmp_path / "crafted.trace", WHOLE_HEADER, struct.pack("<II", 0xD800_0040, 0) + b"x" * 100)
    tracemalloc.start()
    with pytest.raises(TraceError, match="step 0 is damaged"):
        list(TraceReader(path))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    raw = struct.pack("<8sIII", b"SACTRACE", 2, 0xFFFF_FFFF, 0) + b"{}"
    path.write_bytes(raw)
    with pytest.raises(TraceError, match=r"damaged header \(size or checksum\)"):
        TraceReader(path)


def test_a_bomb_is_not_unpacked(tmp_path):
    bomb = zlib.compress(np.array([4, 0, 0, 0], "<u4").tobytes() + bytes(1 << 26))
    record = struct.pack("<II", len(bomb), zlib.crc32(bomb)) + bomb
    path = with_header(tmp_path / "crafted.trace", WHOLE_HEADER, record)
    tracemalloc.start()
    with pytest.raises(TraceError, match="step 0 is damaged"):
        list(TraceReader(path))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_what_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(TraceError, match="is no file; name a recorded trace"):
            TraceReader(path)


def test_a_set_that_is_no_list_is_refused_in_our_words(tmp_path):
    with TraceWriter(tmp_path / "bad.trace", HEADER) as writer, pytest.raises(TraceError, match="no list of positions"):
        writer.write_step((([[1], [1, 2]], [0]), ([0], [0])))

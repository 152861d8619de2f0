"""Bulk bytes by shared memory: what arrives, what a full, foreign or missing region says. Two sides in one process."""

import io
import mmap
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.agent import lane as lanes
from guest.agent.errors import MessageError
from guest.agent.lane import Lane, LaneError, LaneSink, LaneSource, guest_region, map_region
from guest.agent.protocol import Kind, Message, read_message, write_message

NONCE = 0x5AC


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    path = tmp_path_factory.mktemp("exchange") / "region"
    with path.open("wb") as file:
        file.truncate(lanes.REGION_BYTES)
    return map_region(path)


@pytest.fixture
def both(memory):
    """The testbed's side of a lane and the agent's."""
    return Lane.create(memory, 1, NONCE), Lane.join(memory, 1, NONCE)


class Pipe:
    """A stream of one thread's writes and another's reads."""

    def __init__(self):
        source, sink = os.pipe()
        self.source, self.sink = os.fdopen(source, "rb"), os.fdopen(sink, "wb")


def sent_beside(ring, pieces):
    """The Source of a ring on which another thread sends `pieces`, then ends the stream."""
    pipe = Pipe()

    def send():
        with pipe.sink:
            sink = LaneSink(pipe.sink, ring)
            for piece in pieces:
                sink.write(piece)
            sink.flush()

    threading.Thread(target=send, daemon=True).start()
    return pipe.source


def everything(source):
    return b"".join(iter(lambda: bytes(source.read(1 << 20)), b""))


SIZES = st.lists(st.sampled_from([0, 1, 100, 16383, 16384, 700_001, 5 << 20]), max_size=12)


@given(SIZES)
@settings(max_examples=25, deadline=None)
def test_pieces_of_any_size_arrive_whole_and_in_order_however_often_the_ring_wraps(memory, sizes):
    ours, theirs = Lane.create(memory, 0, NONCE), Lane.join(memory, 0, NONCE)
    pieces = [np.random.default_rng(n).bytes(size) for n, size in enumerate(sizes)]
    stream = sent_beside(ours.to_agent, pieces)
    assert everything(LaneSource(stream, theirs.to_agent)) == b"".join(pieces)


def test_more_than_the_ring_holds_goes_through_it_and_the_stream_carries_frames_alone(both):
    pieces = [bytes([n]) * (3 << 20) for n in range(20)]
    stream = sent_beside(both[0].to_agent, pieces)

    class Counting:
        num_bytes = 0

        def read(self, size):
            piece = stream.read(size)
            self.num_bytes += len(piece)
            return piece

    counting = Counting()
    assert everything(LaneSource(counting, both[1].to_agent)) == b"".join(pieces)
    assert counting.num_bytes < 1000


def test_both_directions_are_apart(both):
    ours, theirs = both
    down, up = io.BytesIO(), io.BytesIO()
    LaneSink(down, ours.to_agent).write(b"d" * 100_000)
    LaneSink(up, theirs.to_testbed).write(b"u" * 100_000)
    for stream, ring, expected in ((down, theirs.to_agent, b"d"), (up, ours.to_testbed, b"u")):
        stream.seek(0)
        assert everything(LaneSource(stream, ring)) == expected * 100_000


def test_messages_are_the_same_with_a_lane_as_without(both):
    rows = np.random.default_rng(1).integers(0, 256, (2000, 656), dtype=np.uint8)
    message = Message(Kind.ROWS, {"layer": 3}, {"rows": rows, "tokens": np.arange(5)})
    stream = io.BytesIO()
    write_message(LaneSink(stream, both[0].to_agent), message)
    assert len(stream.getvalue()) < 1000
    stream.seek(0)
    came = read_message(LaneSource(stream, both[1].to_agent))
    assert came.kind is message.kind
    assert came.fields == message.fields
    assert all(np.array_equal(came.arrays[name], message.arrays[name]) for name in message.arrays)


def test_a_ring_that_nobody_reads_is_a_named_error_with_its_bytes(both, monkeypatch):
    monkeypatch.setattr(lanes, "FULL_DEADLINE_S", 0.05)
    sink = LaneSink(io.BytesIO(), both[0].to_agent)
    with pytest.raises(
        LaneError, match=r"the ring to the agent is full: \d+ of \d+ bytes are unread, and none was read for 0.05 s"
    ):
        for _ in range(20):
            sink.write(bytes(1 << 20))


def test_a_writer_whose_reader_has_died_does_not_wait_for_room(both):
    sink = LaneSink(io.BytesIO(), both[0].to_agent, is_alive=lambda: False)
    with pytest.raises(OSError, match="nobody reads any more"):
        for _ in range(20):
            sink.write(bytes(1 << 20))


def test_a_lane_of_another_nonce_or_none_is_refused(memory):
    Lane.create(memory, 2, NONCE)
    with pytest.raises(LaneError, match=r"lane 2 is not the testbed's: holds b'CXLLANE1' 0x5ac"):
        Lane.join(memory, 2, NONCE + 1)
    with pytest.raises(LaneError, match="lane 4 does not lie in a region"):
        Lane.join(memory, 4, NONCE)
    with pytest.raises(LaneError, match="lane 0 does not lie in a region of 4096 bytes"):
        Lane.join(mmap.mmap(-1, 4096), 0, NONCE)


def spoiled(both, change):
    """What reading says of one frame that `change` spoilt."""
    stream = io.BytesIO()
    LaneSink(stream, both[0].to_agent).write(bytes(50_000))
    return LaneSource(io.BytesIO(change(stream.getvalue())), both[1].to_agent).read


@pytest.mark.parametrize("at", range(17))
def test_a_flipped_bit_of_a_frame_is_noticed(both, at):
    read = spoiled(both, lambda raw: raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
    with pytest.raises(MessageError, match="a frame has another checksum than its own"):
        read(10)


def test_a_frame_that_is_cut_off_or_out_of_place_is_refused(both):
    with pytest.raises(MessageError, match="ends 7 bytes too early, within a frame"):
        spoiled(both, lambda raw: raw[:-7])(10)
    read = spoiled(both, lambda raw: raw + raw)
    while_whole = sum(len(read(1 << 16)) for _ in range(1))
    assert while_whole == 50_000
    with pytest.raises(MessageError, match=r"announces 50000 bytes at 0; the ring to the agent is at 50000"):
        read(10)


def test_a_guest_finds_its_region_by_the_device_and_says_where_it_has_none(tmp_path):
    for name, vendor, device in (("0000:00:02.0", "0x1af4", "0x1001"), ("0000:00:05.0", "0x1af4", "0x1110")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(vendor + "\n")
        (tmp_path / name / "device").write_text(device + "\n")
    assert guest_region(tmp_path) == tmp_path / "0000:00:05.0" / "resource2"
    with pytest.raises(LaneError, match="no ivshmem device"):
        guest_region(tmp_path / "none")


def test_a_region_that_cannot_be_mapped_is_named(tmp_path):
    (tmp_path / "short").write_bytes(b"short")
    for name in ("short", "none"):
        with pytest.raises(LaneError, match=f"{name} cannot be mapped"):
            map_region(tmp_path / name)

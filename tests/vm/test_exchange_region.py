"""Bulk bytes between testbed and a real guest: whole, and what is said when the guest dies or stops reading."""

import numpy as np
import psutil
import pytest

from emulation.conformance.agent import LaneProcess
from emulation.errors import CxlbedError
from emulation.machines.hypervisor import emulators_of
from guest.agent import lane as lanes
from guest.agent.lane import LaneError
from guest.agent.protocol import Kind, Message, read_message, write_message
from guest.errors import GuestError

ECHO = b"""
import sys
from guest.agent.lane import Lane, LaneSink, LaneSource, guest_region, map_region
from guest.agent.protocol import read_message, write_message
lane = Lane.join(map_region(guest_region()), int(sys.argv[2]), int(sys.argv[3]))
source, sink = LaneSource(sys.stdin.buffer, lane.to_agent), LaneSink(sys.stdout.buffer, lane.to_testbed)
while (message := read_message(source)) is not None:
    write_message(sink, message)
"""
ROWS = np.random.default_rng(3).integers(0, 256, (40_000, 656), dtype=np.uint8)  # larger than a ring


@pytest.mark.cxlbed("direct")
def test_bytes_go_there_and_back_whole_and_the_stream_carries_next_to_nothing(bed):
    with bed.session("a") as session, bed.lane("a") as taken:
        session.put(ECHO, "/tmp/echo.py")
        with session.python_process("/tmp/echo.py", taken.words) as process:
            talk = LaneProcess(process, taken.lane)
            write_message(talk, Message(Kind.ROWS, arrays={"rows": ROWS}))
            assert np.array_equal(read_message(talk).arrays["rows"], ROWS)
            process.finish()


@pytest.mark.cxlbed("direct")
def test_an_agent_that_stops_reading_is_a_named_error(bed, monkeypatch):
    monkeypatch.setattr(lanes, "FULL_DEADLINE_S", 2.0)
    with (
        bed.session("a") as session,
        bed.lane("a") as taken,
        session.python_process("guest.agent.worker", taken.words) as process,
    ):
        session.run("pkill -STOP -f guest.agent.worker")
        talk = LaneProcess(process, taken.lane)
        with pytest.raises(LaneError, match=r"the ring to the agent is full: .* does the other side still run"):
            write_message(talk, Message(Kind.ROWS, arrays={"rows": ROWS}))
        session.run("pkill -KILL -f guest.agent.worker")


@pytest.mark.cxlbed("direct")
def test_an_agent_whose_lane_is_another_refuses_it_by_name(bed):
    with bed.session("a") as session, bed.lane("a") as taken:
        words = [*taken.words[:2], "1"]
        ended = session.python("guest.agent.worker", words, check=False)
        assert ended.status == 3
        assert "is not the testbed's" in ended.stderr


@pytest.mark.cxlbed("direct", fresh=True)
def test_a_guest_that_is_killed_while_bytes_are_under_way_is_noticed_at_once(bed):
    with bed.session("a") as session, bed.lane("a") as taken:
        session.put(ECHO, "/tmp/echo.py")
        with session.python_process("/tmp/echo.py", taken.words) as process:
            talk = LaneProcess(process, taken.lane)
            write_message(talk, Message(Kind.ROWS, arrays={"rows": ROWS[:20_000]}))
            assert read_message(talk) is not None
            for emulator in emulators_of([host.uuid for host in bed.record.hosts]):
                emulator.kill()
                psutil.wait_procs([emulator], timeout=10)
            with pytest.raises((OSError, GuestError, CxlbedError)):
                for _ in range(10):
                    write_message(talk, Message(Kind.ROWS, arrays={"rows": ROWS}))

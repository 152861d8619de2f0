"""MB/s of the exchange region, testbed to agent and back, in a guest of its own; every byte is compared.

    python scripts/bench/exchange.py [--mib 256] [--rounds 3] [--json FILE]

Whole-machine figures: run it with nothing else running. Bounds: those of a machine of two cores without KVM.
"""

import sys
import time
from functools import partial

import numpy as np
from arms import Bound, parser, report

from emulation.conformance.agent import LaneProcess
from emulation.machines.bed import Bed, booted
from emulation.machines.launch import Options
from emulation.machines.this_machine import this_machine
from guest.agent.protocol import Kind, Message, read_message, write_message
from qemu_configs.bedfile import load

AT_LEAST_MB_PER_S = 200.0
ECHO = b"""
import sys
from guest.agent.lane import Lane, LaneSink, LaneSource, guest_region, map_region
from guest.agent.protocol import Kind, Message, read_message, write_message
lane = Lane.join(map_region(guest_region()), int(sys.argv[2]), int(sys.argv[3]))
source, sink = LaneSource(sys.stdin.buffer, lane.to_agent), LaneSink(sys.stdout.buffer, lane.to_testbed)
while (message := read_message(source)) is not None:
    write_message(sink, Message(Kind.DONE))
    write_message(sink, message)
"""


def both_ways(bed: Bed, num_bytes: int, rounds: int) -> dict[str, float]:
    """Best MB/s each way over `rounds`, one message of `num_bytes` each. Raises AssertionError for a byte that differs."""
    sent = np.random.default_rng(0).integers(0, 256, num_bytes, dtype=np.uint8)
    best = {"to the agent": 0.0, "to the testbed": 0.0}
    with bed.session("a") as session, bed.lane("a") as taken:
        assert taken is not None, "no lane is free"
        session.put(ECHO, "/tmp/echo.py")
        with session.python_process("/tmp/echo.py", taken.words) as process:
            talk = LaneProcess(process, taken.lane)
            for _ in range(rounds):
                times = [time.perf_counter()]
                write_message(talk, Message(Kind.ROWS, arrays={"rows": sent}))
                for expected in (Kind.DONE, Kind.ROWS):
                    message = read_message(talk)
                    assert message is not None and message.kind is expected
                    times.append(time.perf_counter())
                assert np.array_equal(message.arrays["rows"], sent), "bytes differ"
                for way, start, end in zip(best, times, times[1:], strict=False):
                    best[way] = max(best[way], num_bytes / 1e6 / (end - start))
            process.finish()
    return best


def main() -> int:
    made = parser(__doc__.splitlines()[0])
    made.set_defaults(rounds=3)
    made.add_argument("--mib", type=int, default=256)
    arguments = made.parse_args()
    with booted(load("direct", this_machine()), "bench-exchange", Options(), partial(print, file=sys.stderr)) as bed:
        best = both_ways(bed, arguments.mib << 20, arguments.rounds)
    bounds = [Bound(f"{AT_LEAST_MB_PER_S:g} MB/s over {way}", AT_LEAST_MB_PER_S / best[way], 1.0) for way in best]
    return report(arguments, best, "MB/s", bounds)


if __name__ == "__main__":
    sys.exit(main())

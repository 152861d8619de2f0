"""MB/s through /dev/dax0.0 in a guest, by the emulator that beds take here and by the machine's own, one after the other.

    python scripts/bench/dax.py [--mib 16] [--rounds 3] [--json FILE]

Says how fast the emulators are, nothing about CXL. Bound: the first is at least 20 times the second.
"""

import json
import sys
from functools import partial

from arms import Bound, parser, report

from emulation.machines.bed import Bed, booted
from emulation.machines.launch import Options
from emulation.machines.this_machine import this_machine
from qemu_configs.bedfile import load

AT_LEAST_TIMES = 20.0
PROBE = b"""
import json, mmap, os, sys, time
import numpy as np
size, rounds = int(sys.argv[1]), int(sys.argv[2])
memory = np.frombuffer(mmap.mmap(os.open("/dev/dax0.0", os.O_RDWR), 1 << 30), np.uint64)[: size // 8]
values, copy = np.arange(memory.size, dtype=np.uint64), np.zeros(memory.size, np.uint64)
memory[:512] = values[:512]
best = {"write": 0.0, "read": 0.0}
for _ in range(rounds):
    for way, source, target in (("write", values, memory), ("read", memory, copy)):
        start = time.perf_counter()
        target[:] = source
        best[way] = max(best[way], size / 1e6 / (time.perf_counter() - start))
assert (copy == values).all()
print(json.dumps(best))
"""


def speeds(bed: Bed, num_bytes: int, rounds: int) -> dict[str, float]:
    """Best MB/s of writing and of reading, by numpy in the guest."""
    with bed.session("a") as session:
        session.put(PROBE, "/tmp/probe.py")
        found: dict[str, float] = json.loads(session.python("/tmp/probe.py", [str(num_bytes), str(rounds)]).text)
    return found


def main() -> int:
    made = parser(__doc__.splitlines()[0])
    made.set_defaults(rounds=3)
    made.add_argument("--mib", type=int, default=16)
    arguments = made.parse_args()
    figures: dict[str, float] = {}
    for emulator in ("auto", "system"):
        options = Options(emulator=emulator)
        with booted(load("direct", this_machine()), "bench-dax", options, partial(print, file=sys.stderr)) as bed:
            print(bed.record.emulator_choice, file=sys.stderr)
            for way, speed in speeds(bed, arguments.mib << 20, arguments.rounds).items():
                figures[f"{way}, {emulator}"] = speed
    bounds = [
        Bound(f"{AT_LEAST_TIMES:g} x, {way}", AT_LEAST_TIMES * figures[f"{way}, system"] / figures[f"{way}, auto"], 1.0)
        for way in ("write", "read")
    ]
    return report(arguments, figures, "MB/s", bounds)


if __name__ == "__main__":
    sys.exit(main())

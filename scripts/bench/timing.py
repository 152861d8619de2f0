"""What the timing model costs and how well the injector stalls, each beside its bound: `python scripts/bench/timing.py`.

Stalls and chases are judged on an idle core: what the kernel preempted is dropped and counted. Event rates are by CPU time.
Exit status 1 if a bound is missed. Arms are interleaved; figures are medians."""

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from emulation.latency.chase import chase, write_chain
from emulation.stores.timed import TimedStore
from emulation.timing.clock import InjectorError, VirtualClock, WallClock
from emulation.timing.links.fabric import Fabric
from emulation.timing.links.fair import NEVER_NS, FairLink
from emulation.timing.path import Transfer, default_path
from emulation.timing.profile import load_profile
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import KvLayout

LAYOUT = KvLayout.fp8()
GATHER_ROWS = 2048
STORE_ROWS = 3 << 20  # 2.1 GiB
CHAIN_ROWS = 4096  # 2.8 MiB: in the caches, so that memory itself is faster than every profile
CHASE_READS = 2000
CHASE_PROFILES = ("cxl-switched-220", "cxl-switched-400", "cxl-switched-750")


@dataclass(frozen=True)
class Reading:
    """One figure and the bound that it must keep."""

    name: str
    value: float
    bound: float | None  # None: told, not judged
    at_least: bool = False

    @property
    def kept(self) -> bool:
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        verdict = "    " if self.bound is None else "ok  " if self.kept else "MISS"
        bound = "" if self.bound is None else f" ({'>=' if self.at_least else '<='} {self.bound:g})"
        return f"{verdict} {self.name}: {self.value:.4g}{bound}"


def virtual_overhead(rounds: int) -> list[Reading]:
    """Time of a 2048-row gather through TimedStore on the virtual clock over that of the bare gather, less 1."""
    out = np.empty((GATHER_ROWS, LAYOUT.row_bytes), np.uint8)
    rng = np.random.default_rng(0)
    with MappedStore.anonymous(LAYOUT, STORE_ROWS) as bare:
        _touch(bare)
        timed = TimedStore(bare, default_path(load_profile("cxl-switched-220")), VirtualClock())
        times: dict[bool, list[int]] = {False: [], True: []}
        for turn in range(2 * rounds):
            rows = rng.integers(0, STORE_ROWS, GATHER_ROWS)
            through = bool(turn % 2)
            begin_ns = time.perf_counter_ns()
            (timed if through else bare).read_rows(rows, out)
            times[through].append(time.perf_counter_ns() - begin_ns)
    overhead = median(times[True]) / median(times[False]) - 1
    print(f"bare gather {median(times[False]) / 1e3:.1f} us, timed {median(times[True]) / 1e3:.1f} us")
    return [Reading("virtual clock overhead on 2048 rows", overhead, 0.05)]


def link_events(transfers: int) -> list[Reading]:
    """Arrivals and ends per second: on one shared link, and over whole paths of six links with loaded latency."""
    rng = random.Random(1)
    at, arrivals = 0.0, []
    for _ in range(4 * transfers):
        at += rng.expovariate(1 / 1000)
        arrivals.append(int(at))
    link, ended = FairLink("link"), []
    begin = time.process_time()
    for at_ns in arrivals:
        link.end_until(at_ns, ended)
        link.submit(at_ns, 800.0)
    link.end_until(NEVER_NS - 1, ended)
    one_link = 2 * len(arrivals) / (time.process_time() - begin)
    paths = [default_path(load_profile("cxl-switched-400"), f"reader{i}", f"host{i // 8}") for i in range(64)]
    requests = [(40 * at_ns, paths[i % 64], Transfer(1, 2048 * 656)) for i, at_ns in enumerate(arrivals[:transfers])]
    fabric = Fabric()
    begin = time.process_time()
    fabric.run(requests)
    whole_paths = fabric.num_link_events / (time.process_time() - begin)
    return [
        Reading("link events per second, one link", one_link, 1e6, at_least=True),
        Reading("link events per second, 64 readers over six links each, loaded latency looked up", whole_paths, None),
    ]


class IdleCore:
    """Judges a clock's stalls as on an idle core: what the kernel preempted meanwhile is dropped, and counted."""

    def __init__(self) -> None:
        self.clock = WallClock()
        self.num_kept = self.num_dropped = 0

    def undisturbed(self, act: Callable[[], object]) -> bool:
        """Do `act`; whether no one else ran on this core meanwhile. If someone did, its stalls are forgotten."""
        error, before = self.clock.error, _preemptions()
        num_stalls, num_late = len(error.relative), error.num_late
        act()
        if _preemptions() == before:
            self.num_kept += 1
            return True
        del error.relative[num_stalls:]
        error.num_late = num_late
        self.num_dropped += 1
        return False


def injector_error(rounds: int) -> list[Reading]:
    """|achieved - requested| / requested of stalls from 5 us to 1 ms, and of reads through the injected store."""
    idle = IdleCore()
    for _ in range(rounds):
        for requested_ns in (5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000):
            idle.undisturbed(lambda ns=requested_ns: idle.clock.stall(idle.clock.now_ns(), ns))
    stalls = idle.clock.error.summary()
    idle.clock.error = InjectorError()
    out = np.empty((256, LAYOUT.row_bytes), np.uint8)
    rng = np.random.default_rng(0)
    with MappedStore.anonymous(LAYOUT, STORE_ROWS) as bare:
        _touch(bare)
        for name in ("cxl-switched-750", "sac-gpu-rdma", "rdma-100g"):
            timed = TimedStore(bare, default_path(load_profile(name)), idle.clock)
            for turn in range(rounds):
                rows = rng.integers(0, STORE_ROWS, (64, 128, 256)[turn % 3])
                idle.undisturbed(lambda timed=timed, rows=rows: timed.read_rows(rows, out[: rows.size]))
    reads = idle.clock.error.summary()
    print(f"stalls {stalls}\nreads  {reads}\nkept {idle.num_kept}, preempted and dropped {idle.num_dropped}")
    return [
        Reading("injector error on stalls, median", stalls.median_error, 0.03),
        Reading("injector error on stalls, p99", stalls.p99_error, 0.10),
        Reading("injector error on reads, median", reads.median_error, 0.03),
        Reading("injector error on reads, p99", reads.p99_error, 0.10),
    ]


def chase_error(rounds: int) -> list[Reading]:
    """Error of a dependent read through the injected store against the profile's latency."""
    readings, idle = [], IdleCore()
    with MappedStore.anonymous(LAYOUT, CHAIN_ROWS) as bare:
        write_chain(bare)
        paths = {name: default_path(load_profile(name)) for name in CHASE_PROFILES}
        found: dict[str, list[float]] = {name: [] for name in paths}
        for _ in range(rounds):
            for name, path in paths.items():
                times: list[float] = []
                if idle.undisturbed(
                    lambda path=path, times=times: times.append(chase(bare, path, idle.clock, 0, CHASE_READS))
                ):
                    found[name] += times
    for name, kept in found.items():
        wanted = load_profile(name).read_latency_ns
        print(
            f"{name}: {median(kept):.1f} ns per read, wanted {wanted}, {len(kept)} chains of {CHASE_READS} undisturbed"
        )
        readings.append(Reading(f"dependent chase at {wanted} ns, error", abs(median(kept) / wanted - 1), 0.05))
    print(f"reads too slow for the profile: {idle.clock.error.num_late} of {idle.num_kept * CHASE_READS}")
    return readings


def _preemptions() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _touch(store: MappedStore) -> None:
    values = np.ones((1 << 14, LAYOUT.row_bytes), np.uint8)
    for first in range(0, store.num_rows, 1 << 14):
        store.write_rows(np.arange(first, first + (1 << 14)), values)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write the readings to this file")
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    readings = [
        *virtual_overhead(arguments.rounds),
        *link_events(100 * arguments.rounds),
        *injector_error(arguments.rounds),
        *chase_error(arguments.rounds),
    ]
    for reading in readings:
        print(reading)
    if arguments.json:
        with open(arguments.json, "w") as out:  # noqa: PTH123
            json.dump([vars(reading) | {"kept": reading.kept} for reading in readings], out, indent=2)
    return 0 if all(reading.kept for reading in readings) else 1


if __name__ == "__main__":
    sys.exit(main())

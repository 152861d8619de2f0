"""What the serving simulation costs, each figure beside its bound: `python scripts/bench/serving.py [--trace FILE] [--scale]`.

--trace: the Mooncake conversation trace, once by the whole command on 8 servers, and looped to 100k requests. --dynamo PYTHON: the
same trace by a production simulator beside it, `ai-dynamo-runtime` as installed for that interpreter (a virtual environment of its
own; `pip install ai-dynamo-runtime`). --scale: also 64 servers of 8 GPUs, 1M requests, 16 devices (minutes). Exit status 1 if a
bound is missed. Times are processor time of one core."""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from emulation.serving.cluster import Outcome, simulate
from emulation.serving.replay import TraceReplay
from emulation.serving.spec import ClusterSpec
from emulation.serving.traces.reading import read_trace
from emulation.serving.workload import ClosedLoop, OpenLoop, Workload
from emulation.timing.tiers import SERVED

MOONCAKE_BLOCK = 512
SCALE_RATE = 40.0  # requests per second of 64 servers: two thirds of what they can do


@dataclass(frozen=True)
class Reading:
    """One figure and the bound that it must not exceed; None: none was set."""

    name: str
    value: float
    bound: float | None


def main() -> int:
    """Print one line per reading; 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--dynamo", type=Path)
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    readings = [*paper_runs(), tokens_ratio()]
    if options.trace:
        readings += [whole_command(options.trace), *trace_run(options.trace)]
    if options.trace and options.dynamo:
        readings.append(dynamo_run(options.dynamo, options.trace))
    if options.scale:
        readings += scale_runs()
    for reading in readings:
        print(f"{reading.name}: {reading.value:.3g} (bound: {reading.bound if reading.bound is not None else 'none'})")
    if options.json:
        options.json.write_text(json.dumps([asdict(reading) for reading in readings], indent=2) + "\n")
    return int(any(reading.bound is not None and reading.value > reading.bound for reading in readings))


def paper_runs() -> list[Reading]:
    """512 requests of 128K in and 1K out at concurrency 64, seconds."""
    workload = ClosedLoop(512, 64, 131072, 1024)
    return [
        Reading(f"{tier}: 512 x 128K, s", median(seconds(tier, workload) for _ in range(5)), 5.0) for tier in SERVED
    ]


def tokens_ratio() -> Reading:
    """Eight times the tokens beside as many requests: linear would be 8."""
    short, long = (
        median(seconds("cxl", ClosedLoop(512, 64, 131072, output)) for _ in range(7)) for output in (512, 4096)
    )
    return Reading("time for 8 x the output tokens, ratio", long / short, 8.0)


def whole_command(path: Path) -> Reading:
    """`cxlbed serve` of the trace on 8 servers, its imports and its table included."""
    command = f"-m emulation serve --tier cxl --servers 8 --trace {path}"
    return Reading(
        "trace by the whole command, s", median(child_seconds(sys.executable, command) for _ in range(5)), 1.2
    )


def dynamo_run(python: Path, path: Path) -> Reading:
    """The same trace by ai-dynamo-runtime's mock engine, 8 workers, blocks of 512 tokens."""
    program = (
        "from dynamo._core import run_mocker_trace_replay as replay; "
        f"replay([{str(path)!r}], num_workers=8, trace_block_size={MOONCAKE_BLOCK})"
    )
    return Reading(
        "trace by ai-dynamo-runtime, s", median(child_seconds(python, "-c", program) for _ in range(3)), None
    )


def child_seconds(python: str | Path, *words: str) -> float:
    """Processor time of a program, system time included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = words if words[0] == "-c" else words[0].split()
    subprocess.run([python, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def trace_run(path: Path) -> list[Reading]:
    """100k requests of the looped trace on 16 servers; seconds and this process's peak memory."""
    workload = TraceReplay(read_trace(path), 100_000)
    taken = seconds("cxl", workload, servers=16, devices=8)
    return [Reading("trace looped to 100k, s", taken, 180.0), Reading("peak memory, GiB", peak_gib(), 2.0)]


def scale_runs() -> list[Reading]:
    """1M requests on 64 servers of 8 GPUs that share 16 devices: closed loop, then Poisson; and the busiest links."""
    readings = []
    for name, workload in (
        ("closed loop", ClosedLoop(1_000_000, 64 * 64, 32768, 1024)),
        ("Poisson", OpenLoop(1_000_000, SCALE_RATE, 32768, 1024)),
    ):
        taken = seconds("cxl", workload, servers=64, devices=16, on_outcome=print_busiest)
        readings.append(Reading(f"1M requests, {name}, s", taken, 100.0))
    return [*readings, Reading("peak memory at scale, GiB", peak_gib(), 1.0)]


def seconds(
    tier: str, workload: Workload, servers: int = 1, devices: int = 2, on_outcome: Callable[[Outcome], Any] = id
) -> float:
    """Processor time of one run."""
    spec = ClusterSpec(tier, num_servers=servers, num_devices=devices, free_hbm_prefix=True)
    began = time.process_time()
    outcome = simulate(spec, workload)
    taken = time.process_time() - began
    on_outcome(outcome)
    return taken


def print_busiest(outcome: Outcome) -> None:
    """The kinds of links by their busiest member: which saturates first."""
    figures = outcome.recorder.summary()
    busiest: dict[str, float] = {}
    for link, load in outcome.utilisation_by_link().items():
        kind = "".join(letter for letter in link if not letter.isdigit())
        busiest[kind] = max(busiest.get(kind, 0.0), load)
    words = ", ".join(f"{kind} {load:.1%}" for kind, load in sorted(busiest.items(), key=lambda item: -item[1]))
    print(f"{figures.output_throughput:.0f} tokens/s, {figures.tpot_ms.mean:.1f} ms TBT; load: {words}")


def peak_gib() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


if __name__ == "__main__":
    sys.exit(main())

"""Measures one node's memory from the CPUs of the calling thread: dependent chase, bandwidth, latency under load.

Knows native loops and threads; whose memory it is, is known to placement.py. All figures are wall clock of this machine.
"""

import os
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from emulation.errors import MachineError
from emulation.latency.chase import write_chain
from emulation.timing import native
from sac_runtime.memory.mapped import MappedStore

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Effort:
    """How long to look. The defaults take some 4 s per node."""

    num_reads: int = 300_000  # dependent reads per repeat: some 30 to 100 ms
    repeats: int = 5
    stream_s: float = 0.3
    load_fractions: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # of what the loading threads can read at most


@dataclass(frozen=True)
class LoadPoint:
    """Latency of a dependent read while other threads read the same node."""

    others_bytes_per_ns: float
    latency_ns: float


@dataclass(frozen=True)
class Figures:
    """What was measured of one node's memory. Bandwidths in bytes per ns, which is GB/s."""

    latency_ns: float
    read_bytes_per_ns: float  # one thread
    write_bytes_per_ns: float
    read_all_bytes_per_ns: float  # one thread per CPU
    write_all_bytes_per_ns: float
    loaded: tuple[LoadPoint, ...]  # [] on one CPU, which leaves none to load with
    huge_page_share: float  # of the memory; on small pages a latency holds page-table walks


def refuse_emulated_cpu(cpuinfo: Path = CPUINFO) -> None:
    """Raises MachineError under QEMU's TCG, whose wall clock says nothing of memory."""
    if "QEMU TCG" in cpuinfo.read_text():
        raise MachineError(
            "machine: its CPU is emulated (QEMU TCG), and its wall clock is no latency; placement can be shown here, "
            "time only on a real two-socket host"
        )


def measure(store: MappedStore, cpus: Sequence[int], effort: Effort) -> Figures:
    """All figures of the memory under `store`, whose content is lost. cpus: the first does the chase."""
    write_chain(store)
    latency_ns = chase_ns(store, effort)
    loaded = loaded_latency(store, cpus, effort) if len(cpus) > 1 else ()
    read_one, read_all = (bandwidth(store, some, effort.stream_s) for some in (cpus[:1], cpus))
    write_one, write_all = (bandwidth(store, some, effort.stream_s, write=True) for some in (cpus[:1], cpus))
    return Figures(
        latency_ns, read_one, write_one, read_all, write_all, loaded, store.huge_page_bytes() / store.size_bytes
    )


def chase_ns(store: MappedStore, effort: Effort) -> float:
    """Median ns of one dependent read along the store's chain, over the repeats, each going on where the last ended."""
    rows_address, row, readings = store.address + store.rows_offset, 0, []
    for _ in range(effort.repeats):
        stride_bytes, reads = store.layout.stride_bytes, effort.num_reads
        elapsed_ns, _, row = native.chase(rows_address, store.num_rows, stride_bytes, row, reads, 0)
        readings.append(elapsed_ns / effort.num_reads)
    return statistics.median(readings)


def bandwidth(store: MappedStore, cpus: Sequence[int], seconds: float, write: bool = False) -> float:
    """Bytes per ns that threads on `cpus` read (or write) in all, each over a part of its own."""
    with Streams(store, cpus, write) as streams:
        time.sleep(seconds)
    return streams.bytes_per_ns


def loaded_latency(store: MappedStore, cpus: Sequence[int], effort: Effort) -> tuple[LoadPoint, ...]:
    """Chase on the first CPU while all others read at rising paces."""
    others = cpus[1:]
    most = bandwidth(store, others, effort.stream_s)
    points = []
    for fraction in effort.load_fractions:
        block_ns = native.BLOCK_BYTES * len(others) / most
        pace_ns = 0 if fraction == 1 else round(block_ns / fraction)
        with Streams(store, others, pace_ns=pace_ns) as streams:
            latency_ns = chase_ns(store, effort)
        points.append(LoadPoint(streams.bytes_per_ns, latency_ns))
    return tuple(points)


class Streams:
    """Threads, one pinned to each CPU, that pass over their parts of a store from enter to exit."""

    def __init__(self, store: MappedStore, cpus: Sequence[int], write: bool = False, pace_ns: int = 0) -> None:
        part_bytes = store.size_bytes // len(cpus) // native.BLOCK_BYTES * native.BLOCK_BYTES
        assert part_bytes, "a store holds a block for each CPU"
        self.bytes_per_ns = 0.0
        self._stream = native.Stream()
        self._rates: list[float] = []
        self._threads = [
            threading.Thread(target=self._run, args=(cpu, store.address + n * part_bytes, part_bytes, write, pace_ns))
            for n, cpu in enumerate(cpus)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.stop()
        for thread in self._threads:
            thread.join()
        self.bytes_per_ns = sum(self._rates)

    def _run(self, cpu: int, address: int, size_bytes: int, write: bool, pace_ns: int) -> None:
        os.sched_setaffinity(0, {cpu})  # of this thread alone
        begin_ns = time.perf_counter_ns()
        moved = self._stream.run(address, size_bytes, write, pace_ns)
        self._rates.append(moved / (time.perf_counter_ns() - begin_ns))

"""Hosts that work in one pool for long, under random faults: first nothing may be wrong, then, faults lifted, all must get on.

Knows processes, one shared file and the faults; what a host does is in soak_host. Hosts are processes of this machine, so caches
are coherent between them: what is not, is for IncoherentStore and RobustnessMonitor. Faults:

    kill          SIGKILL at a random moment; the next process joins as the same host
    freeze        SIGSTOP for longer than the others' patience: the host is fenced off if it holds anybody up, and told so
    flip row      a bit of a row, its check included
    flip entry    a bit of a journal entry

    report = soak(num_hosts=3, seconds=60, seed=0)
    assert report.passed"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from emulation.errors import InputError
from emulation.faults.soak_host import COUNTERS, PATIENCE_S, counters_in, geometry_for, open_store
from emulation.files import write_whole
from sac_runtime.memory.checked import CheckedStore
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import LINE_BYTES

HANG_S = 30.0  # without progress, neither frozen nor dead
LIVENESS_S = 60.0  # for all hosts to publish and fetch once faults are lifted
CHECKPOINT_S = 10.0
FAULTS = ("kill", "freeze", "flip row", "flip entry")


@dataclass
class SoakReport:
    """What came of it. Sums over all hosts, and over all runs where a soak was resumed. refused: rows; hung: hosts without
    progress for HANG_S, or not getting on at the end; exits: processes that ended by themselves, which none should."""

    seed: int
    num_hosts: int
    seconds: float = 0.0
    fetches: int = 0
    absent: int = 0
    publishes: int = 0
    retired: int = 0
    fenced: int = 0
    healed: int = 0
    refused: int = 0
    wrong_bytes: int = 0
    hung: int = 0
    exits: int = 0
    faults_by_kind: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FAULTS, 0))

    @property
    def passed(self) -> bool:
        return not (self.wrong_bytes or self.hung or self.exits)


def soak(
    num_hosts: int,
    seconds: float,
    seed: int = 0,
    state: Path | None = None,
    faults_per_s: float = 0.5,
    say: Callable[[str], None] = lambda text: None,
) -> SoakReport:
    """Run for `seconds` in all. state: a file that keeps the report every CHECKPOINT_S; one that is there is gone on with, and its
    seconds count. Raises InputError for a state of another soak."""
    if num_hosts < 2 or seconds <= 0:
        raise InputError(f"soak: hosts={num_hosts} must be at least 2, and seconds={seconds} more than 0")
    report = _resumed(state, SoakReport(seed, num_hosts))
    random = np.random.default_rng([seed, int(report.seconds)])
    with _memory(num_hosts) as (folder, store), _Crew(folder, num_hosts, seed + int(report.seconds)) as crew:
        earlier = SoakReport(**asdict(report))
        start_s = saved_s = time.monotonic()
        while earlier.seconds + time.monotonic() - start_s < seconds:
            time.sleep(min(random.exponential(1 / faults_per_s), 1.0))
            fault = str(random.choice(FAULTS))
            crew.inject(fault, random, store)
            report.faults_by_kind[fault] += 1
            _sum_up(report, earlier, crew, start_s)
            if time.monotonic() - saved_s > CHECKPOINT_S:
                saved_s = time.monotonic()
                _save(state, report)
                say(f"{report.seconds:.0f} s: {report.fetches} fetches, {report.wrong_bytes} wrong, {report.hung} hung")
        crew.lift_faults()
        report.hung += crew.num_not_getting_on()
        _sum_up(report, earlier, crew, start_s)
    _save(state, report)
    return report


def _sum_up(report: SoakReport, earlier: SoakReport, crew: "_Crew", start_s: float) -> None:
    totals = crew.totals()
    for name in ("fetches", "absent", "publishes", "retired", "fenced", "healed", "refused", "wrong_bytes"):
        setattr(report, name, getattr(earlier, name) + totals[name])
    report.seconds = round(earlier.seconds + time.monotonic() - start_s, 1)
    report.hung = max(report.hung, earlier.hung + crew.num_hung)
    report.exits = earlier.exits + crew.num_exits


class _Crew:
    """The processes of a soak. num_hung: hosts that were ended since they made no progress; num_exits: that ended by themselves."""

    def __init__(self, folder: Path, num_hosts: int, seed: int) -> None:
        self._folder, self._num_hosts, self._seed = folder, num_hosts, seed
        self._counters = counters_in(folder, num_hosts)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._thaw_at_s: dict[int, float] = {}
        self._progress: dict[int, tuple[int, float]] = {}
        self._num_starts = 0
        self.num_hung = self.num_exits = 0

    def __enter__(self) -> "_Crew":
        self._processes = [self._start(host) for host in range(self._num_hosts)]
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def totals(self) -> Counter[str]:
        return Counter(dict(zip(COUNTERS, self._counters.sum(axis=0).tolist(), strict=True)))

    def inject(self, fault: str, random: np.random.Generator, store: CheckedStore) -> None:
        """Do one of FAULTS to a host or a line; see to frozen, dead and hung hosts before."""
        self._look_after_all()
        host = int(random.integers(self._num_hosts))
        if fault == "kill":
            self._processes[host].kill()
            self._processes[host].wait()
            self._thaw_at_s.pop(host, None)
            self._processes[host] = self._start(host)
        elif fault == "freeze":
            self._processes[host].send_signal(signal.SIGSTOP)
            self._thaw_at_s[host] = time.monotonic() + PATIENCE_S * random.uniform(0.5, 4)
        else:
            _flip(fault, random, store, self._num_hosts)

    def lift_faults(self) -> None:
        self._thaw_at_s = dict.fromkeys(self._thaw_at_s, 0.0)
        self._look_after_all()

    def num_not_getting_on(self) -> int:
        """Hosts that do not publish and fetch within LIVENESS_S."""
        before = self._counters.copy()
        columns = [COUNTERS.index("publishes"), COUNTERS.index("fetches")]
        deadline_s = time.monotonic() + LIVENESS_S
        while time.monotonic() < deadline_s:
            gets_on = (self._counters > before)[:, columns].all(axis=1)
            if gets_on.all():
                return 0
            time.sleep(0.1)
            self._look_after_all()
        return int((~gets_on).sum())

    def _start(self, host: int) -> subprocess.Popen[bytes]:
        self._num_starts += 1
        self._progress.pop(host, None)
        seed = self._seed * 1_000_003 + self._num_starts
        module = "emulation.faults.soak_host"
        return subprocess.Popen(
            [sys.executable, "-m", module, str(self._folder), str(host), str(self._num_hosts), str(seed)],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )

    def _look_after_all(self) -> None:
        now_s = time.monotonic()
        for host, process in enumerate(self._processes):
            if self._thaw_at_s.get(host, now_s + 1) <= now_s:
                del self._thaw_at_s[host]
                process.send_signal(signal.SIGCONT)
            progress, since_s = self._progress.get(host, (-1, now_s))
            if host in self._thaw_at_s or self._counters[host, 0] != progress:
                self._progress[host] = int(self._counters[host, 0]), now_s
            elif now_s - since_s > HANG_S:
                self.num_hung += 1
                process.kill()
            if process.poll() is not None:
                self.num_exits += process.returncode != -signal.SIGKILL
                self._processes[host] = self._start(host)


def _flip(fault: str, random: np.random.Generator, store: CheckedStore, num_hosts: int) -> None:
    geometry, memory = geometry_for(num_hosts), store.store
    if fault == "flip row":
        row = int(random.integers(geometry.num_rows))
        offset = store.rows_offset + row * LINE_BYTES * (store.layout.stride_bytes // LINE_BYTES)
        offset += int(random.integers(memory.layout.row_bytes))
    else:
        offset = int(random.integers(geometry.journal_offset(0), geometry.journal_offset(num_hosts)))
    byte = np.empty(1, np.uint8)
    memory.read_bytes(offset, byte)
    memory.write_bytes(offset, byte ^ np.uint8(1 << int(random.integers(8))))


@contextmanager
def _memory(num_hosts: int) -> Iterator[tuple[Path, CheckedStore]]:
    """A folder with a new pool in it, in memory where there is /dev/shm; removed at the end."""
    shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="cxlbed-soak-", dir=shared) as name:
        folder, geometry = Path(name), geometry_for(num_hosts)
        with open_store(folder, geometry) as store:
            Pool.create(
                store,
                host=0,
                num_hosts=num_hosts,
                num_layers=geometry.num_layers,
                block_tokens=geometry.block_tokens,
                blocks_per_host=geometry.blocks_per_host,
            ).close()
            yield folder, store


def _resumed(state: Path | None, fresh: SoakReport) -> SoakReport:
    """The report in `state`, or a fresh one."""
    if state is None or not state.exists():
        return fresh
    try:
        kept = SoakReport(**json.loads(state.read_text()))
    except (TypeError, ValueError) as error:
        raise InputError(f"soak state {state}: is no report of a soak ({error}); name another file") from error
    if (kept.seed, kept.num_hosts) != (fresh.seed, fresh.num_hosts):
        raise InputError(
            f"soak state {state}: is of seed={kept.seed}, hosts={kept.num_hosts}, asked for are seed={fresh.seed}, "
            f"hosts={fresh.num_hosts}; name another file"
        )
    return kept


def _save(state: Path | None, report: SoakReport) -> None:
    if state is not None:
        write_whole(state, json.dumps(asdict(report), indent=1) + "\n")

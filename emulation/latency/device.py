"""Fetch time of a GPU from a real store, paced inside the kernel to each profile. Knows stores, profiles and the paced gather.

As sac_runtime.gpu needs torch and Triton, so does this. Every fetch is compared with the store's contents."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

import numpy as np
import torch

from emulation.errors import CxlbedError
from emulation.latency.injected import StoreTime, expected_rows
from emulation.timing.clock import InjectorError, InjectorSummary
from emulation.timing.path import Transfer, default_path
from emulation.timing.profile import Profile
from emulation.timing.tiers import dram_beside
from sac_runtime.gpu.device import require_gpu
from sac_runtime.gpu.pace import Pace
from sac_runtime.gpu.paced import PacedGather
from sac_runtime.gpu.registration import RegisteredStore
from sac_runtime.label import Label
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import LINE_BYTES, IntArray

LATE_SHARE = 0.08  # a fetch this much over its profile's time was not paced by it


class TimedGather(Protocol):
    """What PacedGather does: rows into `out` no faster than a pace, and the ns that took."""

    out: torch.Tensor

    def gather(self, rows: torch.Tensor, pace: Pace) -> int: ...


def device_times(
    store: MappedStore, profiles: Sequence[Profile], entries: Sequence[int], repeats: int, seed: int = 0
) -> tuple[list[StoreTime], InjectorSummary]:
    """As injected_times, by a GPU: times by its own events, label `injected`. Raises GpuError without one, and CxlbedError if
    a fetch brought wrong bytes."""
    device = require_gpu()
    with RegisteredStore(store, device) as registered:
        paced = PacedGather(registered, max(entries))
        return paced_times(store, paced, profiles, entries, repeats, seed)


def paced_times(
    store: MappedStore,
    paced: TimedGather,
    profiles: Sequence[Profile],
    entries: Sequence[int],
    repeats: int,
    seed: int,
) -> tuple[list[StoreTime], InjectorSummary]:
    """device_times() by a gather that is there already."""
    rng, times, total = np.random.default_rng(seed), [], InjectorError()
    drams = {profile.name: dram_beside(profile, profiles) for profile in profiles}
    timed = {profile.name: profile for profile in (*profiles, *drams.values())}
    for count in entries:
        transfer = Transfer(count, count * store.layout.lines_per_row * LINE_BYTES)
        arms = {name: _Arm(default_path(profile).idle_ns(transfer)) for name, profile in timed.items()}
        for _ in range(repeats):
            for arm in arms.values():
                arm.book(_checked_ns(store, paced, rng.integers(0, store.num_rows, count), arm.asked_ns), total)
        for profile in profiles:
            arm, dram = arms[profile.name], arms[drams[profile.name].name]
            ratio = arm.us / dram.us if arm.honoured and dram.honoured else None
            figures = arm.us, ratio, Label.INJECTED, profile.name, arm.asked_ns / 1e3, repeats, arm.num_late
            times.append(StoreTime(profile.tier, count, *figures))
    return times, total.summary()


@dataclass
class _Arm:
    """What fetches took that were to take asked_ns."""

    asked_ns: float
    taken_ns: list[int] = field(default_factory=list)
    num_late: int = 0

    def book(self, ns: int, total: InjectorError) -> None:
        late = ns > (1 + LATE_SHARE) * self.asked_ns
        self.taken_ns.append(ns)
        self.num_late += late
        total.add(round(self.asked_ns), ns, late)

    @property
    def us(self) -> float:
        return median(self.taken_ns) / 1e3

    @property
    def honoured(self) -> bool:
        """Whether most repeats were; the median then is the profile's."""
        return 2 * self.num_late < len(self.taken_ns)


def _checked_ns(store: MappedStore, paced: TimedGather, rows: IntArray, asked_ns: float) -> int:
    """One fetch at the pace of a whole that takes `asked_ns`, whose first row takes half of that at most."""
    elapsed_ns = paced.gather(torch.from_numpy(rows), Pace.through(asked_ns / 2, asked_ns, rows.size))
    brought = paced.out[: rows.size].cpu().numpy()
    if not np.array_equal(brought, expected_rows(rows, store.layout.row_bytes)):
        raise CxlbedError(f"store: a fetch of {rows.size} rows by the GPU brought bytes that are not those of its rows")
    return elapsed_ns

"""Fetch time with real bytes on a real store: injected up to a profile, or bare. Knows stores and profiles, no reports.

Every row holds bytes that follow from its number, and every fetch is compared with them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from emulation.errors import CxlbedError, InputError
from emulation.stores.fill import fill_rows
from emulation.stores.timed import TimedStore
from emulation.timing.clock import InjectorError, InjectorSummary, WallClock
from emulation.timing.path import Transfer, default_path
from emulation.timing.profile import Profile
from emulation.timing.tiers import dram_beside
from guest.agent.numa_nodes import num_nodes
from guest.agent.stores import inside_qemu, open_store
from sac_runtime.label import Label, require_one_label
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.memory.spec import StoreKind, StoreSpec
from sac_runtime.memory.store import KvStore
from sac_runtime.rows.layout import LINE_BYTES, ByteArray, IntArray, KvLayout


@dataclass(frozen=True)
class StoreTime:
    """Median time to fetch random entries through a store that is stalled to a profile.
    late: repeats whose real access took longer than the profile says, so that it could not be honoured.
    ratio_to_dram: None where most repeats of this profile or of the DRAM profile were late; it would compare the store
    with itself."""

    tier: str
    entries: int
    us: float
    ratio_to_dram: float | None
    label: Label
    profile: str
    modelled_us: float
    repeats: int
    late: int


@dataclass(frozen=True)
class BareTime:
    """Median time to fetch random entries through a store as it is."""

    entries: int
    us: float
    label: Label


@dataclass
class _Arm:
    """A store under test, its clock and what its repeats took."""

    store: KvStore
    clock: WallClock
    elapsed_ns: list[int] = field(default_factory=list)

    @property
    def us(self) -> float:
        return median(self.elapsed_ns) / 1e3

    @property
    def honoured(self) -> bool:
        """Whether most repeats were; the median then is the profile's."""
        return 2 * self.clock.error.num_late < len(self.elapsed_ns)


@contextmanager
def filled_store(spec: str, layout: KvLayout, num_rows: int) -> Iterator[MappedStore]:
    """The store that `spec` names, filled with `expected_rows`. A DAX device is overwritten; a shared file must be a new or
    an empty one, else InputError. Raises StoreNameError for a name that no store has."""
    named = StoreSpec.parse(spec)
    path = Path(named.where)
    if named.kind is StoreKind.SHARED and path.exists() and path.stat().st_size:
        raise InputError(f"store {spec!r}: holds something already; give the path of a new file")
    with open_store(named, layout, num_rows) as store:
        fill_rows(store, lambda rows: expected_rows(rows, layout.row_bytes))
        yield store


def expected_rows(rows: IntArray, row_bytes: int) -> ByteArray:
    """What `filled_store` puts into rows. rows: (n,) int64. Returns (n, row_bytes) uint8."""
    column = np.arange(row_bytes, dtype=np.int64)
    return ((rows[:, None] * 2654435761 + column * 40503) >> 8).astype(np.uint8)


def injected_times(
    store: KvStore, profiles: Sequence[Profile], entries: Sequence[int], repeats: int, seed: int = 0
) -> tuple[list[StoreTime], InjectorSummary]:
    """Times through `store` stalled to each profile, which take turns; and the injector's own error over all of them.
    The ratio is to the DRAM profile's time on the same store. Raises CxlbedError if a fetch brought wrong bytes."""
    times, total = [], InjectorError()
    drams = {profile.name: dram_beside(profile, profiles) for profile in profiles}
    timed = {profile.name: profile for profile in (*profiles, *drams.values())}
    for count in entries:
        transfer = Transfer(count, count * store.layout.lines_per_row * LINE_BYTES)
        arms = {name: _injected_arm(store, profile) for name, profile in timed.items()}
        _take_turns(list(arms.values()), count, repeats, seed)
        for arm in arms.values():
            total.absorb(arm.clock.error)
        for profile in profiles:
            arm, dram = arms[profile.name], arms[drams[profile.name].name]
            label = require_one_label(arm.store.label, dram.store.label)
            modelled_us = default_path(profile).idle_ns(transfer) / 1e3
            late, ratio = arm.clock.error.num_late, arm.us / dram.us if arm.honoured and dram.honoured else None
            times.append(StoreTime(profile.tier, count, arm.us, ratio, label, profile.name, modelled_us, repeats, late))
    return times, total.summary()


def bare_times(store: KvStore, label: Label, entries: Sequence[int], repeats: int, seed: int = 0) -> list[BareTime]:
    """Times through `store` as it is; `label` says what memory it lies in. Raises LabelMixError for `functional`, which
    is what an emulated machine's wall clock is (see `measured_label`), and CxlbedError if a fetch brought wrong bytes."""
    require_one_label(label)
    times = []
    for count in entries:
        arm = _Arm(store, WallClock())
        _take_turns([arm], count, repeats, seed)
        times.append(BareTime(count, arm.us, label))
    return times


def measured_label(claimed: Label, spec: str) -> Label:
    """The label that a bare reading from the store `spec` deserves: `claimed` where that can be true, else `functional`.
    Nothing is measured on a machine that QEMU emulates, no remote node where there is one node, no CXL in ordinary memory."""
    kind = StoreSpec.parse(spec).kind
    remote = kind is StoreKind.NUMA and num_nodes() > 1
    true = {Label.NUMA_MEASURED: remote, Label.HARDWARE: kind is StoreKind.DAX or remote}
    return claimed if true.get(claimed, False) and not inside_qemu() else Label.FUNCTIONAL


def _injected_arm(store: KvStore, profile: Profile) -> _Arm:
    clock = WallClock()
    return _Arm(TimedStore(store, default_path(profile), clock), clock)


def _take_turns(arms: Sequence[_Arm], count: int, repeats: int, seed: int) -> None:
    """Fetch `count` random rows `repeats` times through each arm in turn, and check every byte."""
    rng, layout = np.random.default_rng(seed), arms[0].store.layout
    out = np.empty((count, layout.row_bytes), np.uint8)
    for _ in range(repeats):
        for arm in arms:
            rows = rng.integers(0, arm.store.num_rows, count)
            arm.elapsed_ns.append(arm.store.read_rows(rows, out))
            if not np.array_equal(out, expected_rows(rows, layout.row_bytes)):
                raise CxlbedError(f"store: a fetch of {count} rows brought bytes that are not those of its rows")

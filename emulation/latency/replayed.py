"""Replays what a run fetched over every tier of interest, on virtual time: the misses of each step and layer (SAC's way)
beside one fetch of the whole prefix. Knows miss counts, row formats and paths; no guests, no reports.

Layers and steps come one after the other, as in decode: a layer's fetch begins when the one before has ended. Compute
between them is left out: these are times of fetching alone. Several readers replay the same misses at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emulation.errors import InputError
from emulation.latency.modelled import NO_RESIDUALS, NUM_READERS, prefix_transfer
from emulation.timing.disagreement import other_readings
from emulation.timing.interval import NO_RESIDUAL, Interval, Residual, interval_of
from emulation.timing.links.fabric import Fabric
from emulation.timing.path import LinkPath, Transfer, default_path
from emulation.timing.profile import Profile, load_profile
from emulation.timing.tiers import DEFAULT_PROFILES
from sac_runtime.label import Label
from sac_runtime.memory.store import Plan
from sac_runtime.rows.layout import LINE_BYTES, IntArray, KvLayout


@dataclass(frozen=True)
class Recording:
    """What was fetched. misses: (steps, layers) int64, rows fetched; context_tokens: length of the prefix; top_k: entries
    that each layer asked for. Raises InputError where these do not fit together."""

    misses: IntArray
    context_tokens: int
    top_k: int
    layout: KvLayout

    def __post_init__(self) -> None:
        if self.misses.ndim != 2 or not self.misses.size:
            raise InputError(f"recording: misses has shape {self.misses.shape}; it must be (steps, layers), not empty")
        if self.top_k < 1 or self.context_tokens < 1:
            raise InputError(f"recording: top_k={self.top_k}, context_tokens={self.context_tokens} must be at least 1")
        least, most = int(self.misses.min()), int(self.misses.max())
        if least < 0 or most > self.top_k:
            raise InputError(f"recording: misses {least} to {most} lie outside [0, top_k={self.top_k}]")

    @property
    def num_layers(self) -> int:
        return int(self.misses.shape[1])

    @property
    def later(self) -> "Recording":
        """The steps after the first, which finds the buffer empty; the recording itself if there are none."""
        return replace(self, misses=self.misses[1:]) if self.misses.shape[0] > 1 else self

    @property
    def miss_rate(self) -> float:
        """Part of the asked entries that the later steps fetched."""
        return float(self.later.misses.mean()) / self.top_k

    @property
    def break_even_steps(self) -> float | None:
        """n* = length / (k x miss rate): steps after which top-k fetches have moved more than the prefix once; None: never."""
        rows_a_step = self.top_k * self.miss_rate
        return self.context_tokens / rows_a_step if rows_a_step else None


@dataclass(frozen=True)
class TierReplay:
    """One tier: fetching the recorded misses beside fetching the whole prefix once. Times are means over the readers.
    topk_us: of all steps; step_us: of one later step; ratio_to_dram: of topk_us to that over local DRAM;
    break_even_steps: n* by bytes; break_even_steps_by_time: prefix_us over step_us; None: never.
    intervals: what is known of topk_us, step_us and prefix_us: profiles of one subject that disagree, and the fit's errors."""

    tier: str
    profile: str
    label: Label
    rows: int
    num_bytes: int
    lines: int
    topk_us: float
    step_us: float
    ratio_to_dram: float
    prefix_bytes: int
    prefix_lines: int
    prefix_us: float
    prefix_ratio_to_dram: float
    break_even_steps: float | None
    break_even_steps_by_time: float | None
    intervals: dict[str, Interval]


def recording_of_plans(plans: Sequence[Sequence[Plan]], context_tokens: int, top_k: int, layout: KvLayout) -> Recording:
    """Recording of plans: plans[step][layer]."""
    misses = np.array([[plan.misses for plan in step] for step in plans], np.int64)
    return Recording(misses, context_tokens, top_k, layout)


def tier_paths(num_readers: int = 1, read_by: str = "gpu") -> dict[str, list[LinkPath]]:
    """Default paths of every tier, one per reader, all of one host."""
    names = DEFAULT_PROFILES[read_by]
    return {
        tier: [default_path(load_profile(name), f"reader{i % NUM_READERS}") for i in range(num_readers)]
        for tier, name in names.items()
    }


def replay(
    recording: Recording, tiers: dict[str, list[LinkPath]], residuals: Mapping[str, Residual] = NO_RESIDUALS
) -> list[TierReplay]:
    """Replay over each tier's paths, one per reader. Ratios are to the tier `dram`, which must be among them. residuals: the
    fit's, by profile."""
    if "dram" not in tiers:
        raise InputError(f"replay: tiers {', '.join(tiers)} lack dram, which ratios are set against")
    dram = _times(recording, tiers["dram"])
    return [_tier_replay(recording, tier, paths, dram, residuals) for tier, paths in tiers.items()]


@dataclass(frozen=True)
class _Times:
    """Mean times of the readers, ns."""

    topk_ns: float
    step_ns: float
    prefix_ns: float


def _times(recording: Recording, paths: Sequence[LinkPath]) -> _Times:
    later = recording.later
    step_ns = _topk_ns(later, paths) / later.misses.shape[0]
    return _Times(_topk_ns(recording, paths), step_ns, _prefix_ns(recording, paths))


def _tier_replay(
    recording: Recording, tier: str, paths: Sequence[LinkPath], dram: _Times, residuals: Mapping[str, Residual]
) -> TierReplay:
    times, profile = _times(recording, paths), paths[0].profile
    rows, prefix_rows = int(recording.misses.sum()), recording.context_tokens * recording.num_layers
    row_bytes, lines = recording.layout.row_bytes, recording.layout.lines_per_row
    return TierReplay(
        tier=tier,
        profile=profile.name,
        label=Label.MODELLED,
        rows=rows,
        num_bytes=rows * row_bytes,
        lines=rows * lines,
        topk_us=times.topk_ns / 1e3,
        step_us=times.step_ns / 1e3,
        ratio_to_dram=times.topk_ns / dram.topk_ns if rows else 1.0,
        prefix_bytes=prefix_rows * row_bytes,
        prefix_lines=prefix_rows * lines,
        prefix_us=times.prefix_ns / 1e3,
        prefix_ratio_to_dram=times.prefix_ns / dram.prefix_ns,
        break_even_steps=recording.break_even_steps,
        break_even_steps_by_time=times.prefix_ns / times.step_ns if times.step_ns else None,
        intervals=_intervals(recording, times, paths, residuals.get(profile.name, NO_RESIDUAL)),
    )


def _intervals(
    recording: Recording, times: _Times, paths: Sequence[LinkPath], residual: Residual
) -> dict[str, Interval]:
    """Over the other readings of the paths' subject, each as its profile describes it by itself."""
    others = [
        _times(recording, [_with_profile(path, other) for path in paths]) for other in other_readings(paths[0].profile)
    ]
    return {
        f"{name}_us": interval_of(
            getattr(times, f"{name}_ns") / 1e3, [getattr(other, f"{name}_ns") / 1e3 for other in others], residual
        )
        for name in ("topk", "step", "prefix")
    }


def _with_profile(path: LinkPath, profile: Profile) -> LinkPath:
    """The default path of another profile, for the same reader."""
    return default_path(profile, path.reader.link)


def _topk_ns(recording: Recording, paths: Sequence[LinkPath]) -> float:
    """Mean time in which a reader has fetched all recorded misses, one layer after the other."""
    row_bytes = recording.layout.lines_per_row * LINE_BYTES
    transfers = [Transfer(int(rows), int(rows) * row_bytes) for rows in recording.misses.ravel() if rows]
    fabric, ends, progress = Fabric(), [0] * len(paths), [iter(transfers) for _ in paths]

    def begin_next(reader: int, at_ns: int) -> None:
        ends[reader] = at_ns
        transfer = next(progress[reader], None)
        if transfer is not None:
            fabric.submit(at_ns, paths[reader], transfer, reader)

    for reader in range(len(paths)):
        begin_next(reader, 0)
    while fabric.next_event_ns() is not None:
        ended = fabric.step()
        if ended is not None:
            begin_next(ended[1], ended[0])
    return sum(ends) / len(ends)


def _prefix_ns(recording: Recording, paths: Sequence[LinkPath]) -> float:
    """Mean time in which a reader has the whole prefix, all having begun at once."""
    row_bytes = recording.layout.lines_per_row * LINE_BYTES
    transfer = prefix_transfer(recording.context_tokens, recording.num_layers, row_bytes)
    return sum(Fabric().run([(0, path, transfer) for path in paths])) / len(paths)

"""Fetch time by tier: n random entries, whole prefixes, and the range over all profiles of a tier.
Knows profiles and paths on the virtual clock; no stores, no reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

from emulation.errors import InputError
from emulation.timing.disagreement import other_readings
from emulation.timing.interval import NO_RESIDUAL, Interval, Residual, interval_of
from emulation.timing.links.fabric import Fabric
from emulation.timing.path import Transfer, default_path
from emulation.timing.profile import Profile
from emulation.timing.tiers import dram_beside, tier_profiles
from sac_runtime.label import Label
from sac_runtime.rows.layout import DEEPSEEK_LAYERS

ENTRY_BYTES = 1152  # one bf16 row [SAC]
PREFIX_PIECE_TOKENS = 64  # assumed: one work request moves a page of 64 tokens of one layer
NUM_READERS = 8  # GPUs behind one adapter [SAC's testbed has eight per host]
FIG5_ENTRIES = (64, 128, 256, 512, 1024, 2048)
FIG3_CONTEXTS = (16384, 32768, 65536, 131072)
FIG3_CONCURRENCIES = (1, 4, 8, 16, 24, 32)

PUBLISH_BY, FRESH_BY = "non_temporal", "clflush"  # the best of what is published of a CPU's ways
NO_RESIDUALS: Mapping[str, Residual] = MappingProxyType({})


@dataclass(frozen=True)
class EntryTime:
    """Time to fetch random entries; `us_low` to `us_high` is the range over all profiles of the tier and reader.

    interval: what is known of `us`: profiles of one subject that disagree, and the fit's errors. publish_us, fresh_us: to write as
    many entries until other hosts see them, and to read them so that other hosts' writes are seen, by what a CPU does for that
    at best (`publish_by`, `fresh_by`); None where hosts do not share the tier, or nothing is known."""

    tier: str
    entries: int
    us: float
    ratio_to_dram: float
    label: Label
    profile: str
    us_low: float
    us_high: float
    interval: Interval
    publish_us: float | None
    publish_by: str | None
    fresh_us: float | None
    fresh_by: str | None


@dataclass(frozen=True)
class PrefixTime:
    """Mean time of whole-prefix fetches that begin at once; interval: what is known of it, as of EntryTime."""

    tier: str
    context_tokens: int
    concurrency: int
    mean_s: float
    label: Label
    profile: str
    interval: Interval


def entry_times(
    profiles: Sequence[Profile],
    entries: Sequence[int],
    entry_bytes: int = ENTRY_BYTES,
    residuals: Mapping[str, Residual] = NO_RESIDUALS,
) -> list[EntryTime]:
    """Time of one reader alone for each profile and number of entries. The ratio is to the first DRAM profile of the same
    reader among `profiles`, or the default one. residuals: the fit's, by profile. Raises InputError for entries < 1."""
    _require_positive("entries", entries)
    return [
        _entry_time(profile, dram_beside(profile, profiles), count, entry_bytes, residuals)
        for profile in profiles
        for count in entries
    ]


def _entry_time(
    profile: Profile, dram: Profile, count: int, entry_bytes: int, residuals: Mapping[str, Residual]
) -> EntryTime:
    us = entries_us(profile, count, entry_bytes)
    of_tier = [us, *(entries_us(sibling, count, entry_bytes) for sibling in tier_profiles(profile))]
    others = [entries_us(other, count, entry_bytes) for other in other_readings(profile)]
    path, transfer = default_path(profile), Transfer(count, count * entry_bytes)
    publish_ns, fresh_ns = path.publish_ns(transfer.num_bytes, PUBLISH_BY), path.fresh_read_ns(transfer, FRESH_BY)
    return EntryTime(
        tier=profile.tier,
        entries=count,
        us=us,
        ratio_to_dram=us / entries_us(dram, count, entry_bytes),
        label=Label.MODELLED,
        profile=profile.name,
        us_low=min(of_tier),
        us_high=max(of_tier),
        interval=interval_of(us, others, residuals.get(profile.name, NO_RESIDUAL)),
        publish_us=None if publish_ns is None else publish_ns / 1e3,
        publish_by=None if publish_ns is None else PUBLISH_BY,
        fresh_us=None if fresh_ns is None else fresh_ns / 1e3,
        fresh_by=None if fresh_ns is None else FRESH_BY,
    )


def prefix_times(
    profiles: Sequence[Profile],
    contexts: Sequence[int],
    concurrencies: Sequence[int],
    residuals: Mapping[str, Residual] = NO_RESIDUALS,
) -> list[PrefixTime]:
    """Mean time for each profile, context and concurrency. residuals: the fit's, by profile. Raises InputError for numbers < 1."""
    _require_positive("context", contexts)
    _require_positive("concurrency", concurrencies)
    cases = product(profiles, contexts, concurrencies)
    return [_prefix_time(one, tokens, readers, residuals) for one, tokens, readers in cases]


def _prefix_time(profile: Profile, tokens: int, readers: int, residuals: Mapping[str, Residual]) -> PrefixTime:
    mean_s = prefix_mean_s(profile, tokens, readers)
    others = [prefix_mean_s(other, tokens, readers) for other in other_readings(profile)]
    interval = interval_of(mean_s, others, residuals.get(profile.name, NO_RESIDUAL))
    return PrefixTime(profile.tier, tokens, readers, mean_s, Label.MODELLED, profile.name, interval)


def entries_us(profile: Profile, entries: int, entry_bytes: int = ENTRY_BYTES) -> float:
    """Time for one reader alone to fetch `entries` random rows, us."""
    return default_path(profile).idle_ns(Transfer(entries, entries * entry_bytes)) / 1e3


def prefix_transfer(context_tokens: int, num_layers: int = DEEPSEEK_LAYERS, row_bytes: int = ENTRY_BYTES) -> Transfer:
    """A whole prefix as one transfer, in pieces of a page of one layer."""
    pieces = -(-context_tokens // PREFIX_PIECE_TOKENS) * num_layers
    return Transfer(pieces, context_tokens * num_layers * row_bytes)


def prefix_mean_s(profile: Profile, context_tokens: int, concurrency: int) -> float:
    """Mean time of `concurrency` fetches of a whole prefix that begin at once, spread over the readers of one host, s."""
    transfer = prefix_transfer(context_tokens)
    paths = [default_path(profile, f"reader{i}") for i in range(min(NUM_READERS, concurrency))]
    requests = [(0, paths[i % len(paths)], transfer) for i in range(concurrency)]
    return sum(Fabric().run(requests)) / concurrency / 1e9


def _require_positive(field: str, values: Sequence[int]) -> None:
    for value in values:
        if value < 1:
            raise InputError(f"fetch times: {field}={value} must be at least 1")

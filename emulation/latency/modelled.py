"""Fetch time by tier: n random entries, whole prefixes, and the range over all profiles of a tier.
Knows profiles and paths on the virtual clock; no stores, no reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from emulation.errors import InputError
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


@dataclass(frozen=True)
class EntryTime:
    """Time to fetch random entries; `us_low` to `us_high` is the range over all profiles of the tier and reader."""

    tier: str
    entries: int
    us: float
    ratio_to_dram: float
    label: Label
    profile: str
    us_low: float
    us_high: float


@dataclass(frozen=True)
class PrefixTime:
    """Mean time of whole-prefix fetches that begin at once."""

    tier: str
    context_tokens: int
    concurrency: int
    mean_s: float
    label: Label
    profile: str


def entry_times(profiles: Sequence[Profile], entries: Sequence[int], entry_bytes: int = ENTRY_BYTES) -> list[EntryTime]:
    """Time of one reader alone for each profile and number of entries. The ratio is to the first DRAM profile of the same
    reader among `profiles`, or the default one. Raises InputError for entries < 1."""
    _require_positive("entries", entries)
    times = []
    for profile in profiles:
        dram, siblings = dram_beside(profile, profiles), tier_profiles(profile)
        for count in entries:
            us = entries_us(profile, count, entry_bytes)
            of_tier = [us, *(entries_us(sibling, count, entry_bytes) for sibling in siblings)]
            ratio = us / entries_us(dram, count, entry_bytes)
            low, high = min(of_tier), max(of_tier)
            times.append(EntryTime(profile.tier, count, us, ratio, Label.MODELLED, profile.name, low, high))
    return times


def prefix_times(
    profiles: Sequence[Profile], contexts: Sequence[int], concurrencies: Sequence[int]
) -> list[PrefixTime]:
    """Mean time for each profile, context and concurrency. Raises InputError for numbers < 1."""
    _require_positive("context", contexts)
    _require_positive("concurrency", concurrencies)
    cases = product(profiles, contexts, concurrencies)
    return [
        PrefixTime(one.tier, tokens, readers, prefix_mean_s(one, tokens, readers), Label.MODELLED, one.name)
        for one, tokens, readers in cases
    ]


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

"""The tiers: for each, the profiles that stand for it, and how a serving cluster's ways to keep KV are called.
Knows names of profiles and which belong together; no paths, no clock."""

from collections.abc import Sequence
from dataclasses import dataclass

from emulation.timing.profile import GPU_SUFFIX, Profile, load_profile
from emulation.timing.profile_folders import profile_names

PREFIX_ENGINE = "sac-prefix-rdma"  # moves whole prefixes only: no profile for single entries


@dataclass(frozen=True)
class TierProfiles:
    """What stands for one tier where nothing else is asked for.

    cpu, gpu: its profile as that reader sees it. kept_as: the way of keeping KV (SERVED) that its profiles can stand for.
    in_fig5: whether SAC's Fig 5 measures it, as `gpu` has it. prefix: what moves whole prefixes, where that is not `gpu`."""

    cpu: str
    gpu: str
    kept_as: str
    in_fig5: bool = True
    prefix: str | None = None


TIERS = {
    "dram": TierProfiles("dram-pond-intel", "sac-gpu-dram", "dram"),
    "numa": TierProfiles("numa-pond-intel", "numa-pond-intel@gpu", "dram", in_fig5=False),
    "cxl": TierProfiles("cxl-switched-220", "sac-gpu-cxl", "cxl"),
    "rdma": TierProfiles("rdma-100g", "sac-gpu-rdma", "rdma", prefix=PREFIX_ENGINE),
}
SERVED = {"hbm": "HBM only", "dram": "local DRAM", "cxl": "CXL pool", "rdma": "RDMA prefetch"}  # ways to keep KV
RIVALS = ("rdma", "hbm")  # of SERVED: what a CXL pool is held against

DEFAULT_PROFILES = {
    "gpu": {tier: profiles.gpu for tier, profiles in TIERS.items()},
    "cpu": {tier: profiles.cpu for tier, profiles in TIERS.items()},
}
PREFIX_PROFILES = {tier: profiles.prefix or profiles.gpu for tier, profiles in TIERS.items()}
FIG5_PROFILES = {tier: profiles.gpu for tier, profiles in TIERS.items() if profiles.in_fig5}


def can_stand_for(profile: Profile, served: str) -> bool:
    """Whether a profile may take the place of the one that a way of keeping KV has by default."""
    return TIERS[profile.tier].kept_as == served


def tier_profiles(profile: Profile) -> list[Profile]:
    """All known profiles of the same tier and reader; for a GPU also the CPU's, read by a GPU."""
    known = [load_profile(name) for name in profile_names() if name != PREFIX_ENGINE]
    same_tier = [one for one in known if one.tier == profile.tier]
    siblings = [one for one in same_tier if one.read_by == profile.read_by]
    if profile.read_by == "gpu":
        siblings += [load_profile(one.name + GPU_SUFFIX) for one in same_tier if one.read_by == "cpu"]
    return siblings


def dram_beside(profile: Profile, profiles: Sequence[Profile]) -> Profile:
    """What a profile's times are set against: local DRAM seen by the same kind of reader."""
    own = [one for one in profiles if one.tier == "dram" and one.read_by == profile.read_by]
    return own[0] if own else load_profile(DEFAULT_PROFILES[profile.read_by]["dram"])

"""One table of tiers: it covers what profiles and serving know, and its profiles are of their tier."""

import pytest

from emulation.serving.spec import POLICIES
from emulation.timing import profile_file
from emulation.timing.profile import load_profile
from emulation.timing.tiers import (
    DEFAULT_PROFILES,
    FIG5_PROFILES,
    PREFIX_PROFILES,
    RIVALS,
    SERVED,
    TIERS,
    can_stand_for,
)


def test_the_table_holds_each_tier_of_a_profile_file_in_its_order():
    assert tuple(TIERS) == profile_file.TIERS
    assert list(POLICIES) == list(SERVED)
    assert set(RIVALS) < set(SERVED)
    assert list(FIG5_PROFILES) == ["dram", "cxl", "rdma"]


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_s_default_profiles_are_of_that_tier_and_reader(tier):
    for reader, names in DEFAULT_PROFILES.items():
        assert (load_profile(names[tier]).tier, load_profile(names[tier]).read_by) == (tier, reader)
    assert load_profile(PREFIX_PROFILES[tier]).tier == tier


def test_another_socket_s_memory_may_stand_for_local_dram_and_nothing_else():
    numa = load_profile("numa-pond-intel")
    assert [served for served in SERVED if can_stand_for(numa, served)] == ["dram"]

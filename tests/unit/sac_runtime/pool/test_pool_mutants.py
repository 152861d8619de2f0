"""Flushes, fences, invalidations and their order in the pool's code are needed: without each of them some run fails at once.

The mutants come from the code as it stands. JUDGED_ELSEWHERE are those that need a death, a meeting or damage to show."""

from importlib import import_module

import pytest

from emulation.faults.mutants import mutants_of
from sac_runtime.errors import SacError
from tests.support.pool_meetings import a_block_is_published_to_the_letter_of_the_recipe
from tests.support.robust_pool import pools_meet

MODULES = ("lines", "format", "hosts", "journal", "directory", "lease", "pool")
JUDGED_ELSEWHERE = (
    "format.erase_superblock",  # a_creator_dies_and_others_open_what_it_left: test_pool_breakages
    "format.holds_pool",  # the same meeting
    "hosts.Hosts._torn_marks",  # test_pool_damage: flipped marks
    "hosts._whole_",  # test_pool_damage: states and marks that are torn
    "lease.Leases._begin",  # meetings: test_pool_breakages; unannounced entries: test_pool_damage
    "lease.Leases.lookup_under",  # equivalent: orders of what is private to the process, all of it under its lock
    "pool.Pool.create",  # a_creator_dies_and_others_open_what_it_left
    "pool.Pool.publish",  # orders of what is private to the process, and the look at one's own lines
    "pool.Pool.retire",  # meetings: test_pool_breakages
    "pool.Pool._join",  # a successor that dies while it takes over: test_pool_death
)
MUTANTS = [
    mutant
    for name in MODULES
    for mutant in mutants_of(import_module(f"sac_runtime.pool.{name}"))
    if not mutant.name.startswith(JUDGED_ELSEWHERE)
]


def fails_at_once():
    try:
        a_block_is_published_to_the_letter_of_the_recipe()
    except (AssertionError, SacError):
        return True
    try:
        return bool(pools_meet())
    except (AssertionError, SacError):
        return True


def test_the_code_as_it_stands_passes_and_has_mutants_of_each_kind():
    assert not fails_at_once()
    assert len(MUTANTS) >= 15
    for what in ("invalidate(offset, raw.size)` left out", "fence()` left out", "flush(", "` before `"):
        assert any(what in mutant.name for mutant in MUTANTS), what


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_killed(mutant):
    with mutant.applied():
        assert fails_at_once()
    assert mutant.function.__code__ is not mutant.code

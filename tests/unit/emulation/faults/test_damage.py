"""Damaged pools give right bytes or errors with names; and a pool that believes what it reads is found out."""

import pytest

from emulation.faults import damage
from emulation.faults.damage import fuzz
from sac_runtime.pool.directory import Directory


def test_whatever_is_damaged_nobody_gets_other_bytes_or_an_error_without_a_name():
    report = fuzz(seed=2, trials=60)
    assert (report.wrong, report.unnamed, report.hung) == ([], [], [])
    assert set(report.by_kind) == set(damage.DAMAGES)
    assert report.found_right > 600
    assert report.withdrawn > 5
    assert report.refused


def believes_in_spite_of_lost_entries(patch):
    patch.setattr(Directory, "_withdraw_for_damage", lambda self, host: None)


def does_not_look_beyond_the_heads(patch):
    patch.setattr(Directory, "distrust_unannounced", lambda self, hosts: None)


BREAKAGES = {"tombstones": believes_in_spite_of_lost_entries, "replay states": does_not_look_beyond_the_heads}


@pytest.mark.parametrize("kind", BREAKAGES)
def test_the_fuzzer_notices(monkeypatch, kind):
    monkeypatch.setattr(damage, "DAMAGES", {kind: damage.DAMAGES[kind]})
    BREAKAGES[kind](monkeypatch)
    assert fuzz(seed=2, trials=40).wrong


def test_an_error_without_a_name_and_a_hang_are_told(monkeypatch):
    def fails(random, story):
        raise IndexError("out of bounds")

    def hangs(random, story):
        while True:
            pass

    monkeypatch.setattr(damage, "HANG_S", 0.2)
    monkeypatch.setattr(damage, "DAMAGES", {"fails": fails})
    assert fuzz(seed=2, trials=1).unnamed == ["2/0 fails: IndexError: out of bounds"]
    monkeypatch.setattr(damage, "DAMAGES", {"hangs": hangs})
    assert fuzz(seed=2, trials=1).hung == ["2/0 hangs"]

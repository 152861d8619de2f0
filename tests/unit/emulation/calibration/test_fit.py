"""The pattern search on surfaces whose least point is known."""

import pytest

from emulation.calibration.fit import pattern_search

SEARCH = {"step": 0.2, "least_step": 1e-4, "gain": 1e-9}


def test_the_least_point_of_a_bowl_is_found_from_both_sides():
    for start in ((1.0, 9.0), (9.0, 1.0)):
        least = pattern_search(lambda x: (x[0] - 3) ** 2 + (x[1] - 4) ** 2, start, **SEARCH)
        assert least == pytest.approx((3, 4), rel=1e-3)


def test_a_diagonal_valley_needs_moves_of_pairs():
    def valley(x):
        return 1000 * abs(x[0] - x[1]) + (x[0] - 3) ** 2

    alone = pattern_search(valley, (1.0, 1.0), **SEARCH)
    both = pattern_search(valley, (1.0, 1.0), **SEARCH, pairs=True)
    assert valley(both) < 1e-4 < valley(alone)


def test_the_same_start_ends_at_the_same_result_and_a_start_at_the_least_stays():
    def bowl(x):
        return (x[0] - 3) ** 2

    assert pattern_search(bowl, (3.0,), **SEARCH) == (3.0,)
    assert pattern_search(bowl, (2.0,), **SEARCH) == pattern_search(bowl, (2.0,), **SEARCH)

"""Top-k against a full sort, on the distributions that could break a threshold taken from a sample."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sac_runtime import native
from sac_runtime.errors import GeometryError
from sac_runtime.fetch.topk import top_k


def by_sorting(scores, k):
    order = np.lexsort((np.arange(scores.size), -scores.astype(np.float64)))
    return np.sort(order[scores[order] > -np.inf][:k])


@pytest.fixture(params=["BASELINE", "AVX2", "AVX512"], autouse=True)
def instruction_set(request, monkeypatch):
    wanted = native.Copy[request.param]
    if wanted > native.best_copy():
        pytest.skip(f"this CPU has no {request.param}")
    monkeypatch.setattr(native, "best_copy", lambda: wanted)


def spread(random, n):
    return random.standard_normal(n)


def few_values(random, n):
    return random.integers(0, 5, n) - 2.0


def mostly_masked(random, n):
    return np.where(random.random(n) < 0.97, -np.inf, random.standard_normal(n))


def all_equal(random, n):
    return np.zeros(n)


def all_masked(random, n):
    return np.full(n, -np.inf)


def rising(random, n):
    return np.arange(n)


def falling(random, n):
    return -np.arange(n)


def zeros_of_both_signs(random, n):
    return np.where(random.random(n) < 0.5, -0.0, 0.0)


def peaks_where_the_sample_looks(random, n):
    return np.where(np.arange(n) % 32 == 0, 1000.0, random.standard_normal(n))


def peaks_where_the_sample_does_not_look(random, n):
    return np.where(np.arange(n) % 32 == 1, 1000.0 + random.standard_normal(n), 0)


def infinite(random, n):
    return np.where(random.random(n) < 0.1, np.inf, random.standard_normal(n))


DISTRIBUTIONS = [
    spread,
    few_values,
    mostly_masked,
    all_equal,
    all_masked,
    rising,
    falling,
    zeros_of_both_signs,
    peaks_where_the_sample_looks,
    peaks_where_the_sample_does_not_look,
    infinite,
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(
    ("length", "k"), [(1, 1), (2047, 2048), (9000, 2048), (131072, 2048), (131072, 1), (50000, 50000)]
)
def test_the_choice_is_that_of_a_full_sort(distribution, length, k):
    scores = distribution(np.random.default_rng(length + k), length).astype(np.float32)
    np.testing.assert_array_equal(top_k(scores, k), by_sorting(scores, k))


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, st.integers(0, 70), elements=st.floats(allow_nan=False, width=32)), st.integers(1, 80))
def test_the_choice_is_that_of_a_full_sort_on_any_floats(scores, k):
    for wanted in range(native.load().sac_best_copy() + 1):
        positions = np.empty(min(k, scores.size), np.int64)
        kept = native.load().sac_top_k(scores.ctypes.data, scores.size, positions.size, positions.ctypes.data, wanted)
        assert positions[:kept].tolist() == by_sorting(scores, k).tolist()


def test_of_equal_scores_the_lower_positions_win_and_a_flipped_rule_would_show():
    scores = np.array([1, 3, 1, 2, 1], np.float32)
    assert top_k(scores, 3).tolist() == [0, 1, 3]
    highest_position_wins = np.sort(4 - by_sorting(scores[::-1], 3))
    assert top_k(scores, 3).tolist() != highest_position_wins.tolist()


def test_a_sample_that_sees_the_best_alone_costs_a_second_pass_and_no_entry():
    scores = np.zeros(131072, np.float32)
    scores[::32] = 1 + np.arange(4096)  # just where a sample of 4096 looks: its threshold leaves far fewer than k
    assert top_k(scores, 4500).tolist() == by_sorting(scores, 4500).tolist()
    assert top_k(scores, 2048).tolist() == by_sorting(scores, 2048).tolist()


def test_the_result_is_in_ascending_order_of_position():
    chosen = top_k(np.random.default_rng(0).standard_normal(131072).astype(np.float32), 2048)
    assert (np.diff(chosen) > 0).all()


def test_masked_scores_are_dropped_even_where_fewer_than_k_are_left():
    assert top_k(np.array([-np.inf, 5, -np.inf, 4], np.float32), 3).tolist() == [1, 3]


@pytest.mark.parametrize("length", [5, 131072])
def test_a_nan_is_refused_with_its_position(length):
    scores = np.zeros(length, np.float32)
    scores[3] = np.nan
    with pytest.raises(GeometryError, match=r"scores\[3\] is NaN"):
        top_k(scores, 2)


@pytest.mark.parametrize(
    ("scores", "k", "message"),
    [
        (np.zeros(3), 1, "scores is float64"),
        (np.zeros((2, 2), np.float32), 1, r"must be float32 of shape \(T,\)"),
        (np.zeros(3, np.float32), 0, "k=0 must be a whole number, at least 1"),
        (np.zeros(3, np.float32), 2.0, "k=2.0 must be a whole number"),
        (np.zeros(3, np.float32), True, "k=True must be a whole number"),
        ([0.0, 1.0], 1, "scores is a list"),
    ],
)
def test_bad_input_is_refused(scores, k, message):
    with pytest.raises(GeometryError, match=message):
        top_k(scores, k)

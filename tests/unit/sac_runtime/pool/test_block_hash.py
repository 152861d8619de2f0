"""Names of blocks: equal for equal prefixes, and for nothing else."""

import numpy as np
import pytest

from sac_runtime.errors import GeometryError
from sac_runtime.pool.block_hash import chain_hashes


def names(tokens, block_tokens=4, **options):
    return [tuple(row) for row in chain_hashes(np.array(tokens), block_tokens, **options).tolist()]


def test_equal_prefixes_have_equal_names_until_they_part():
    one, two = names(range(16)), names([*range(9), 99, *range(10, 16)])
    assert [a == b for a, b in zip(one, two, strict=True)] == [True, True, False, False]


def test_equal_tokens_after_different_ones_have_different_names():
    assert not set(names([1] * 4 + [7] * 8)) & set(names([2] * 4 + [7] * 8))
    assert len(set(names([7] * 40))) == 10


def test_a_root_keeps_models_apart():
    assert not set(names(range(16), root=b"model-a")) & set(names(range(16), root=b"model-b"))


def test_the_rest_of_a_sequence_is_named_only_when_asked_for():
    assert len(names(range(11))) == 2
    assert len(names(range(11), partial=True)) == 3
    assert names(range(11), partial=True)[:2] == names(range(8))
    assert names(range(11), partial=True)[2] != names(range(12))[2]
    assert names([]) == names([], partial=True) == []


def test_names_do_not_depend_on_how_tokens_are_held():
    tokens = np.arange(64, dtype=np.int64)
    assert np.array_equal(chain_hashes(tokens, 8), chain_hashes(tokens.astype(np.int32), 8))
    assert np.array_equal(chain_hashes(tokens[::2], 8), chain_hashes(tokens[::2].copy(), 8))


def test_names_stay_what_they_are():
    """Hosts of different releases share pools: a changed name would hide all that is published."""
    assert names([1, 2, 3, 4]) == [(4049343558671227328, 18151252522610470918)]


def test_a_block_of_no_tokens_is_refused():
    with pytest.raises(GeometryError, match="block_tokens=0"):
        chain_hashes(np.arange(3), 0)

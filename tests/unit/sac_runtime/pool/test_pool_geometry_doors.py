"""What shapes a pool: whole numbers, and no text, truth or float that Python would compare or count."""

import pytest

from sac_runtime import KvLayout, MappedStore, Pool, PoolGeometry
from sac_runtime.errors import GeometryError

NO_NUMBERS = [None, "2", 1.5, 2.0, True, float("nan"), float("inf"), [2]]


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("field", ["num_hosts", "num_layers", "block_tokens", "blocks_per_host", "index_key_bytes"])
def test_a_geometry_of_no_whole_numbers_is_refused_by_its_field(field, value):
    shape = {"num_hosts": 1, "num_layers": 1, "block_tokens": 64, "blocks_per_host": 4, "index_key_bytes": 0}
    with pytest.raises(GeometryError, match=rf"pool: {field}=.* must be a whole number"):
        PoolGeometry(KvLayout.bf16(), **shape | {field: value})


@pytest.mark.parametrize("host", NO_NUMBERS)
def test_a_host_that_is_no_whole_number_is_refused(host):
    with (
        MappedStore.anonymous(KvLayout.bf16(), 256, metadata_bytes=1 << 16) as store,
        pytest.raises(GeometryError, match=r"pool: host=.* must be a whole number"),
    ):
        Pool.create(store, host=host, num_hosts=1, num_layers=1, block_tokens=64, blocks_per_host=1)

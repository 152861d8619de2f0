"""Names of stores, both ways."""

import subprocess
import sys

import pytest

from sac_runtime.errors import StoreNameError
from sac_runtime.memory.spec import StoreKind, StoreSpec


@pytest.mark.parametrize(
    ("name", "spec", "private"),
    [
        ("anonymous", StoreSpec(StoreKind.ANONYMOUS), True),
        ("shared:/dev/shm/a:b", StoreSpec(StoreKind.SHARED, "/dev/shm/a:b"), False),
        ("dax:/dev/dax0.0", StoreSpec.dax("/dev/dax0.0"), False),
        ("numa:1", StoreSpec.numa(1), True),
    ],
)
def test_a_name_says_the_memory_and_is_printed_as_it_was_read(name, spec, private):
    assert StoreSpec.parse(name) == spec
    assert str(spec) == name
    assert spec.is_private is private


@pytest.mark.parametrize(
    "name", ["", "tape", "anonymous:", "anonymous:x", "shared", "shared:", "dax:", "numa", "numa:", "numa:-1", "numa:x"]
)
def test_a_name_that_no_store_has_is_refused_with_those_that_there_are(name):
    with pytest.raises(
        StoreNameError, match=f"store='{name}' is none of anonymous, shared:PATH, dax:PATH or numa:NODE"
    ):
        StoreSpec.parse(name)


def test_a_spec_that_has_no_name_cannot_be_made():
    with pytest.raises(StoreNameError, match="store='numa:-1' is none of"):
        StoreSpec.numa(-1)


def test_names_are_parsed_without_loading_numpy():
    script = "import sys, sac_runtime.memory.spec; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0

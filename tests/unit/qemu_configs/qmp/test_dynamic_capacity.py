import json

import pytest

from qemu_configs.bedfile import load
from qemu_configs.errors import ExtentError
from qemu_configs.qmp.dynamic_capacity import BLOCK_BYTES, Extent, add_capacity, release_capacity

REGION_BYTES = 512 << 20  # of the stock topology: 1 GiB in two regions


@pytest.fixture
def bed():
    return load("dynamic-capacity")


@pytest.mark.parametrize(
    ("device", "region", "extents", "problem"),
    [
        ("mem9", 0, [], "device 'mem9': has no dynamic capacity in bed 'dynamic-capacity' (devices with it: 'mem0')"),
        ("mem0", 2, [], "device 'mem0': region=2 is outside 0 to 1"),
        ("mem0", 0, [Extent(1, BLOCK_BYTES)], "is not whole blocks of 2097152"),
        ("mem0", 0, [Extent(0, 0)], "is not whole blocks of 2097152"),
        ("mem0", 0, [Extent(0, 2 * BLOCK_BYTES), Extent(BLOCK_BYTES, BLOCK_BYTES)], "start at 4194304 or later"),
        ("mem0", 0, [Extent(-BLOCK_BYTES, BLOCK_BYTES)], "start at 0 or later"),
        ("mem0", 0, [Extent(REGION_BYTES, BLOCK_BYTES)], "ends past the region's 536870912"),
    ],
)
def test_an_extent_that_the_device_cannot_have_is_refused(bed, device, region, extents, problem):
    with pytest.raises(ExtentError) as refused:
        add_capacity(bed, device, region, extents)
    assert problem in str(refused.value)


def test_a_device_without_dynamic_capacity_is_refused():
    with pytest.raises(ExtentError, match="none has any"):
        release_capacity(load("direct"), "mem0", 0, [])


def test_qemu_takes_the_offered_extents_and_keeps_them_pending_without_a_guest(bed, tell_qemu):
    whole = [Extent(0, REGION_BYTES)]
    commands = [
        add_capacity(bed, "mem0", 0, whole),
        add_capacity(bed, "mem0", 1, [Extent(BLOCK_BYTES, BLOCK_BYTES), Extent(4 * BLOCK_BYTES, BLOCK_BYTES)]),
        release_capacity(bed, "mem0", 0, whole),
    ]
    replies = [json.loads(line) for line in tell_qemu(bed, bed.hosts[0], commands).stdout.splitlines()]
    answers = [reply for reply in replies if "return" in reply or "error" in reply]
    assert answers[1] == answers[2] == {"return": {}}
    assert "pending" in answers[3]["error"]["desc"]

"""The usual pool of two hosts."""

import pytest

from tests.support.pool import Fleet


@pytest.fixture
def fleet():
    return Fleet()

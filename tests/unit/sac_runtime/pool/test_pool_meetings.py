"""Hosts meet at every step of what they do, over caches that nothing keeps coherent, and nobody loses or misreads a block."""

import pytest

from tests.support.pool_meetings import MEETINGS, a_block_is_published_to_the_letter_of_the_recipe


@pytest.mark.parametrize("meeting", MEETINGS, ids=lambda meeting: meeting.__name__)
def test_nobody_misreads_when(meeting):
    meeting()


def test_the_steps_of_a_publication_are_those_of_the_recipe():
    a_block_is_published_to_the_letter_of_the_recipe()

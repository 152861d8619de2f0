"""Links booked by several stores and several processes."""

import subprocess
import sys

import pytest

from emulation.errors import InputError
from emulation.timing.links.booked import MAX_LINKS, Reservations

BOOK_1000_TIMES = """
import sys
from pathlib import Path
from emulation.timing.links.booked import Reservations
links = Reservations(Path(sys.argv[1]))
lines = [links.line("device0"), links.line(sys.argv[2])]
for _ in range(1000):
    links.book(lines, 0, [7, 3])
"""


def test_bookings_queue_behind_one_another():
    with Reservations() as links:
        device = [links.line("d0")]
        assert links.book(device, 100, [50]) == 150
        assert links.book(device, 149, [10]) == 160  # behind by one ns: waits
        assert links.book(device, 160, [10]) == 170  # free since this very ns: begins at once
        assert links.busy_ns(device, 165) == [65]


def test_the_slowest_link_of_a_path_decides():
    with Reservations() as links:
        lines = [links.line("a"), links.line("b")]
        assert links.book(lines, 0, [10, 30]) == 30
        assert links.book(lines[:1], 0, [5]) == 15


def test_no_booking_of_several_processes_is_lost(tmp_path):
    path = tmp_path / "links"
    command = [sys.executable, "-c", BOOK_1000_TIMES, str(path)]
    running = [subprocess.Popen([*command, f"adapter{i}"]) for i in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    with Reservations(path) as links:
        assert links.booked_ns("device0") == 3 * 1000 * 7
        assert links.booked_ns("adapter1") == 1000 * 3
        assert links.book([links.line("device0")], 0, [1]) == 21_001


def test_a_file_of_something_else_is_refused_and_left_as_it_was(tmp_path):
    path = tmp_path / "links"
    for content in (b"hello", b"x" * (MAX_LINKS + 1) * 64):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is no link state of this version"):
            Reservations(path)
        assert path.read_bytes() == content
    with pytest.raises(InputError, match="cannot be opened"):
        Reservations(tmp_path / "no" / "links")


def test_more_links_than_places_are_refused():
    with Reservations() as links:
        assert len({links.line(f"link{i}") for i in range(MAX_LINKS)}) == MAX_LINKS
        assert links.line("link7") == links.line("link7")
        with pytest.raises(InputError, match="more than 1023 links"):
            links.line("one more")

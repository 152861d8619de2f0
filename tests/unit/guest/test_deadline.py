import time

from guest.deadline import Deadline


def test_what_is_left_falls_to_nothing_and_stays_there():
    deadline = Deadline.after(0.02)
    assert 0 < deadline.left_s <= 0.02
    time.sleep(0.03)
    assert deadline.left_s == 0.0


def test_polls_look_once_even_where_no_time_is_left():
    assert sum(1 for _ in Deadline.after(0).polls(60)) == 1


def test_polls_look_again_until_the_deadline_and_a_last_time_at_it():
    begun = time.monotonic()
    looks = [time.monotonic() - begun for _ in Deadline.after(0.05).polls(0.02)]
    assert 3 <= len(looks) <= 4
    assert looks[-1] >= 0.049
    assert time.monotonic() - begun < 1

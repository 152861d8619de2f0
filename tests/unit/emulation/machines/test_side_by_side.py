import threading
import time

import pytest

from emulation.machines.side_by_side import side_by_side


def test_jobs_run_at_once_and_all_are_waited_for():
    together = threading.Barrier(3, timeout=20)
    done = []

    def job():
        together.wait()
        done.append(1)

    side_by_side([job, job, job])
    assert len(done) == 3


def test_the_first_failure_does_not_wait_for_the_others():
    leave = threading.Event()
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        side_by_side([lambda: leave.wait(60), lambda: 1 / 0])
    assert time.monotonic() - begun < 30
    leave.set()

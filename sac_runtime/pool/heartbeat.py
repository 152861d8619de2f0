"""A thread that beats while a host's work stays away from the pool. Knows when to beat, not what a beat is."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sac_runtime.errors import FencedError


@contextmanager
def heartbeat(beat: Callable[[], None], interval_s: float, name: str) -> Iterator[None]:
    """Call `beat` every interval_s from a thread called `name` while the body runs. Ends quietly at FencedError: the next use of
    the pool raises it where somebody can act on it."""
    stop = threading.Event()

    def beat_until_stopped() -> None:
        with suppress(FencedError):
            while not stop.wait(interval_s):
                beat()

    thread = threading.Thread(target=beat_until_stopped, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

"""A deadline: the moment by which a thing that is waited for must have happened. Knows the monotonic clock alone."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Deadline:
    """A moment of this machine's monotonic clock."""

    at_s: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """The deadline `seconds` from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds until it passes; 0.0 once it has."""
        return max(0.0, self.at_s - time.monotonic())

    def polls(self, every_s: float) -> Iterator[None]:
        """Come back at once and then every `every_s` until the deadline has passed: the body looks, and breaks or returns
        when it sees what it waits for."""
        while True:
            yield
            if self.left_s == 0.0:
                return
            time.sleep(min(every_s, self.left_s))

"""Lanes of a host's exchange region as the testbed takes them: one per agent, while it talks. Knows files and locks; the
lane's form is `guest.agent.lane`'s.
"""

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from guest.agent.lane import NUM_LANES, Lane, map_region


@dataclass(frozen=True)
class TakenLane:
    """A lane that is this process's. words: what tells the agent which one."""

    lane: Lane
    words: tuple[str, ...]


@contextmanager
def taken_lane(region: Path) -> Iterator[TakenLane | None]:
    """A free lane of the region at `region`, made anew and held for the body; None where all are taken, or where the region
    is not on this machine, as with hosts of another: then the stream alone carries all. Raises LaneError."""
    if not region.exists():
        yield None
        return
    for number in range(NUM_LANES):
        with region.with_name(f"{region.name}.{number}").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            nonce = secrets.randbits(63)
            lane = Lane.create(map_region(region), number, nonce)
            yield TakenLane(lane, ("--lane", str(number), str(nonce)))
            return
    yield None

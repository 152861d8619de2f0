"""Whether requests come faster than they can be served: then the queue grows for as long as they come, and a mean latency says
how long the run was, nothing else. Knows times of arrival and of first tokens, no cluster."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emulation.serving.workload import NS_PER_S

LEAST_SHARE = 0.2  # of the arrivals' time that the queue must have grown for
CHANCE = 4.0  # times the root of the arrivals since then: what chance alone would hardly let wait
GROWTH = 1.3  # of the mean queue from each third of that time to the next; a straight rise from nothing has 3 and 5/3


@dataclass(frozen=True)
class Overload:
    """The queue grows without bound. since_s: from when on; waiting: requests without a first token when the last one came;
    arriving, served: requests per second from then to that time."""

    since_s: float
    waiting: int
    arriving: float
    served: float

    def words(self) -> str:
        """The finding in a line."""
        return (
            f"overload: from {self.since_s:.0f} s on the queue grows without bound, {self.arriving:.3g} requests per second come "
            f"and {self.served:.3g} are served; {self.waiting} wait when the last one comes"
        )


def find_overload(arrived_ns: Sequence[float], ttft_ns: Sequence[float], num_gpus: int) -> Overload | None:
    """Overload of an open loop, or None. arrived_ns, ttft_ns: of each request, in one order.

    It begins when the queue last held no more than one request per GPU. It is one if the queue has grown from each third of
    the time since then to the next, and by more than chance would; a burst that is worked off, or a queue that is long but
    steady, is none."""
    arrived = np.sort(np.asarray(arrived_ns))
    if len(arrived) < 3 * num_gpus:
        return None
    first_tokens = np.sort(np.asarray(arrived_ns) + np.asarray(ttft_ns))
    waiting = np.arange(1, len(arrived) + 1) - np.searchsorted(first_tokens, arrived, side="right")
    short = np.flatnonzero(waiting <= num_gpus)
    start = int(short[-1]) if len(short) else 0
    begun_ns, ended_ns = arrived[start], arrived[-1]
    if ended_ns - begun_ns < LEAST_SHARE * (ended_ns - arrived[0]) or len(arrived) - start < 6:
        return None
    thirds = [float(part.mean()) for part in np.array_split(waiting[start:], 3)]
    steady = thirds[1] < GROWTH * thirds[0] or thirds[2] < GROWTH * thirds[1]
    num_arrived = len(arrived) - 1 - start
    if steady or waiting[-1] < CHANCE * num_arrived**0.5:
        return None
    elapsed_s = (ended_ns - begun_ns) / NS_PER_S
    num_served = np.searchsorted(first_tokens, ended_ns) - np.searchsorted(first_tokens, begun_ns)
    return Overload(
        float(begun_ns / NS_PER_S), int(waiting[-1]), float(num_arrived / elapsed_s), float(num_served / elapsed_s)
    )

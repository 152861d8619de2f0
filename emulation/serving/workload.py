"""Who asks for what, and when: closed loop, Poisson, bursty. Replays of traces are in `replay`.
Knows requests and arrival times, no cluster. Field names are those of sglang.bench_serving. Same seed, same requests.

Requests are made one at a time, so that a million of them take no memory."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from emulation.errors import InputError

PAPER_PREFIXES = 512  # SAC's round 2 hits for each of its 512 requests
NS_PER_S = 1_000_000_000
RATES = (1e-6, 1e9)  # per second: one in twelve days, one per ns
BURSTINESSES = (1e-3, 1e6)


class Request(NamedTuple):
    """One request. arrival_ns: 0 in a closed loop, where it comes when a place is free.

    hash_ids: one per block of the prompt (`Workload.block_tokens`), equal ids for equal prefixes; empty: nothing is shared.
    cached: the prefix has been put into the pool before (round 2). next_turn: comes `next_turn.delay_ns` after this one's end, and
    not before its own arrival_ns."""

    arrival_ns: float
    prompt_len: int
    output_len: int
    hash_ids: tuple[int, ...] = ()
    cached: bool = False
    next_turn: "Request | None" = None
    delay_ns: float = 0.0


Lengths = tuple[tuple[int, int], tuple[int, int]]
"""Of prompts and of outputs: the least and the most."""


class Workload(Protocol):
    """max_concurrency: requests in flight at most (closed loop); None: each comes at its arrival time (open loop).
    num_prefixes: how many different prefixes there are to keep, where requests say `cached`.
    block_tokens: of a hash id; None where requests have none.

    requests() gives those that come by themselves; turns that follow another hang from it. All of them are num_prompts."""

    @property
    def num_prompts(self) -> int: ...

    @property
    def max_concurrency(self) -> int | None: ...

    @property
    def num_prefixes(self) -> int: ...

    @property
    def longest_len(self) -> int: ...

    @property
    def lengths(self) -> Lengths: ...

    @property
    def block_tokens(self) -> int | None: ...

    def requests(self) -> Iterator[Request]: ...


@dataclass(frozen=True)
class ClosedLoop:
    """`num_prompts` equal requests, `max_concurrency` in flight. round_number 1 populates, 2 hits for every prefix, if the
    `num_prefixes` different ones fit where the policy keeps them."""

    num_prompts: int
    max_concurrency: int
    prompt_len: int
    output_len: int
    round_number: int = 2
    num_prefixes: int = PAPER_PREFIXES
    block_tokens: int | None = None

    def __post_init__(self) -> None:
        require_positive(self, "num_prompts", "max_concurrency", "prompt_len", "output_len", "num_prefixes")
        if self.round_number not in (1, 2):
            raise InputError(
                f"ClosedLoop: round_number={self.round_number} must be 1 (populate) or 2 (every prefix hits)"
            )

    @property
    def longest_len(self) -> int:
        return self.prompt_len + self.output_len

    @property
    def lengths(self) -> Lengths:
        return (self.prompt_len, self.prompt_len), (self.output_len, self.output_len)

    def requests(self) -> Iterator[Request]:
        request = Request(0.0, self.prompt_len, self.output_len, cached=self.round_number == 2)
        return (request for _ in range(self.num_prompts))


@dataclass(frozen=True)
class OpenLoop:
    """Requests that come by themselves, `request_rate` per second on average.

    burstiness: shape of the Gamma law of the gaps; 1 is a Poisson process, below 1 they come in bursts
    (variance of a gap = mean^2 / burstiness)."""

    num_prompts: int
    request_rate: float
    prompt_len: int
    output_len: int
    burstiness: float = 1.0
    round_number: int = 2
    seed: int = 0
    num_prefixes: int = PAPER_PREFIXES
    max_concurrency: int | None = None
    block_tokens: int | None = None

    def __post_init__(self) -> None:
        require_positive(self, "num_prompts", "prompt_len", "output_len", "num_prefixes")
        require_law(self, self.request_rate, self.burstiness)

    @property
    def longest_len(self) -> int:
        return self.prompt_len + self.output_len

    @property
    def lengths(self) -> Lengths:
        return (self.prompt_len, self.prompt_len), (self.output_len, self.output_len)

    def requests(self) -> Iterator[Request]:
        for at_ns in arrivals_ns(self.num_prompts, self.request_rate, self.burstiness, self.seed):
            yield Request(at_ns, self.prompt_len, self.output_len, cached=self.round_number == 2)


def arrivals_ns(num_prompts: int, request_rate: float, burstiness: float, seed: int) -> Iterator[float]:
    """Times of arrival, their gaps by the Gamma law (see OpenLoop)."""
    rng = random.Random(seed)
    at_ns, mean_ns = 0.0, NS_PER_S / request_rate
    for _ in range(num_prompts):
        at_ns += rng.gammavariate(burstiness, mean_ns / burstiness)
        yield at_ns


def require_positive(owner: object, *names: str) -> None:
    """Raise InputError unless each field is a number above 0."""
    for name in names:
        if not 0 < getattr(owner, name) < inf:
            raise InputError(f"{type(owner).__name__}: {name}={getattr(owner, name)} must be a number above 0")


def require_law(owner: object, request_rate: float, burstiness: float) -> None:
    """Raise InputError for a law of arrivals outside what a clock in ns can tell apart."""
    for name, value, (least, most) in (
        ("request_rate", request_rate, RATES),
        ("burstiness", burstiness, BURSTINESSES),
    ):
        if not least <= value <= most:
            raise InputError(f"{type(owner).__name__}: {name}={value} must be a number from {least:g} to {most:g}")

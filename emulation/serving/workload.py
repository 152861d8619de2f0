"""Who asks for what, and when: closed loop, Poisson, bursty, and the replay of a Mooncake trace.
Knows requests and arrival times, no cluster. Field names are those of sglang.bench_serving. Same seed, same requests.

Requests are made one at a time, so that a million of them take no memory."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from emulation.errors import InputError

TRACE_BLOCK_TOKENS = 512  # of a Mooncake trace: one hash id stands for so many tokens
PAPER_PREFIXES = 512  # SAC's round 2 hits for each of its 512 requests
NS_PER_S = 1_000_000_000


class Request(NamedTuple):
    """One request. arrival_ns: 0 in a closed loop, where it comes when a place is free.

    hash_ids: one for each 512-token block of the prompt, equal ids for equal prefixes; empty: nothing is shared.
    cached: the prefix has been put into the pool before (round 2)."""

    arrival_ns: float
    prompt_len: int
    output_len: int
    hash_ids: tuple[int, ...] = ()
    cached: bool = False


Lengths = tuple[tuple[int, int], tuple[int, int]]
"""Of prompts and of outputs: the least and the most."""


class Workload(Protocol):
    """max_concurrency: requests in flight at most (closed loop); None: each comes at its arrival time (open loop).
    num_prefixes: how many different prefixes there are to keep, where requests say `cached`."""

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

    def __post_init__(self) -> None:
        _require_positive(self, "num_prompts", "max_concurrency", "prompt_len", "output_len", "num_prefixes")
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

    def __post_init__(self) -> None:
        _require_positive(self, "num_prompts", "request_rate", "prompt_len", "output_len", "burstiness", "num_prefixes")

    @property
    def longest_len(self) -> int:
        return self.prompt_len + self.output_len

    @property
    def lengths(self) -> Lengths:
        return (self.prompt_len, self.prompt_len), (self.output_len, self.output_len)

    def requests(self) -> Iterator[Request]:
        rng = random.Random(self.seed)
        at_ns, mean_ns = 0.0, NS_PER_S / self.request_rate
        for _ in range(self.num_prompts):
            at_ns += rng.gammavariate(self.burstiness, mean_ns / self.burstiness)
            yield Request(at_ns, self.prompt_len, self.output_len, cached=self.round_number == 2)


@dataclass(frozen=True)
class TraceReplay:
    """Replay of a trace in Mooncake's format, looped until `num_prompts` requests have come.

    Each loop's blocks are its own, so that reuse stays what the trace has. rate_scale: how many times faster than
    recorded. Source of the format: Mooncake, FAST'25 release (Apache-2.0)."""

    trace: tuple[Request, ...]
    num_prompts: int
    rate_scale: float = 1.0
    num_prefixes: int = 0
    max_concurrency: int | None = None

    def __post_init__(self) -> None:
        _require_positive(self, "num_prompts", "rate_scale")

    @classmethod
    def from_file(cls, path: Path, num_prompts: int | None = None, rate_scale: float = 1.0) -> "TraceReplay":
        """Raises InputError for a file that cannot be read or a line that is none of the format."""
        trace = tuple(_read_trace(path))
        if not trace:
            raise InputError(f"trace {path}: holds no request; give a Mooncake .jsonl file")
        return cls(trace, num_prompts or len(trace), rate_scale)

    @property
    def longest_len(self) -> int:
        return max(request.prompt_len + request.output_len for request in self.trace)

    @property
    def lengths(self) -> Lengths:
        prompts = [request.prompt_len for request in self.trace]
        outputs = [request.output_len for request in self.trace]
        return (min(prompts), max(prompts)), (min(outputs), max(outputs))

    def requests(self) -> Iterator[Request]:
        num_blocks = 1 + max((max(request.hash_ids, default=0) for request in self.trace), default=0)
        span_ns = self.trace[-1].arrival_ns + self.trace[-1].arrival_ns / max(1, len(self.trace) - 1)
        for number in range(self.num_prompts):
            loop, index = divmod(number, len(self.trace))
            request = self.trace[index]
            yield request._replace(
                arrival_ns=(loop * span_ns + request.arrival_ns) / self.rate_scale,
                hash_ids=tuple(loop * num_blocks + block for block in request.hash_ids),
            )


def _read_trace(path: Path) -> Iterator[Request]:
    try:
        with path.open() as lines:
            for number, line in enumerate(lines, 1):
                if line.strip() and not line.startswith("#"):
                    yield _parse_line(path, number, line)
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"trace {path}: {exc}; name a Mooncake .jsonl file that can be read") from exc


def _parse_line(path: Path, number: int, line: str) -> Request:
    try:
        entry: dict[str, Any] = json.loads(line)
        request = Request(
            float(entry["timestamp"]) * 1e6,
            int(entry["input_length"]),
            int(entry["output_length"]),
            tuple(int(block) for block in entry["hash_ids"]),
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise InputError(
            f"trace {path}, line {number}: {exc!r}; a line needs timestamp, input_length, output_length and hash_ids"
        ) from exc
    if request.prompt_len < 1 or request.output_len < 1:
        raise InputError(f"trace {path}, line {number}: input_length and output_length must be at least 1")
    return request


def _require_positive(owner: object, *names: str) -> None:
    for name in names:
        if not 0 < getattr(owner, name) < inf:
            raise InputError(f"{type(owner).__name__}: {name}={getattr(owner, name)} must be a number above 0")

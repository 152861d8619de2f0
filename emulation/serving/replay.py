"""A recorded trace as a workload: its arrivals or others, once or in loops. Knows requests; no file formats, no engine."""

from collections.abc import Iterator
from dataclasses import dataclass

from emulation.errors import InputError
from emulation.serving.traces.reading import MOST_SPAN_MS, RequestTrace
from emulation.serving.workload import Lengths, Request, arrivals_ns, require_law, require_positive

_MOST_SPAN_NS = MOST_SPAN_MS * 1e6


@dataclass(frozen=True)
class TraceReplay:
    """Replay of a trace, looped until `num_prompts` requests have come. Each loop's blocks are its own, so that reuse stays what
    the trace has.

    rate_scale: how many times faster than recorded, delays between turns included. request_rate: arrivals by the Gamma law in place
    of the trace's, which has none; max_concurrency: a closed loop of so many sessions instead. Raises InputError."""

    trace: RequestTrace
    num_prompts: int
    rate_scale: float = 1.0
    request_rate: float | None = None
    burstiness: float = 1.0
    seed: int = 0
    max_concurrency: int | None = None
    num_prefixes: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "num_prompts", "rate_scale")
        if self.request_rate is not None:
            require_law(self, self.request_rate, self.burstiness)
        if not self.trace.timed and self.request_rate is None and self.max_concurrency is None:
            raise InputError("TraceReplay: the trace records no arrivals; give a request_rate or max_concurrency")
        loops_before_last = max(0.0, self.num_loops - 1)
        last_ns = self.trace.requests[-1].arrival_ns
        if (span_ns := (loops_before_last * self._span_ns + last_ns) / self.rate_scale) > _MOST_SPAN_NS:
            raise InputError(
                f"TraceReplay: rate_scale={self.rate_scale} and num_prompts={self.num_prompts} stretch the replay over "
                f"{span_ns:.1e} ns, above {_MOST_SPAN_NS:.1e}; raise the one or lower the other"
            )

    @property
    def num_loops(self) -> float:
        """How often the trace is replayed."""
        return self.num_prompts / self.trace.num_requests

    @property
    def block_tokens(self) -> int:
        return self.trace.block_tokens

    @property
    def longest_len(self) -> int:
        return max(turn.prompt_len + turn.output_len for turn in self._turns_of_trace())

    @property
    def lengths(self) -> Lengths:
        prompts = [turn.prompt_len for turn in self._turns_of_trace()]
        outputs = [turn.output_len for turn in self._turns_of_trace()]
        return (min(prompts), max(prompts)), (min(outputs), max(outputs))

    def requests(self) -> Iterator[Request]:
        arrivals = None
        if self.request_rate is not None:
            arrivals = arrivals_ns(self.num_prompts, self.request_rate, self.burstiness, self.seed)
        for request in self._looped():
            yield request if arrivals is None else request._replace(arrival_ns=next(arrivals))

    def _looped(self) -> Iterator[Request]:
        first_requests, num_blocks = self.trace.requests, self._num_blocks()
        left, loop = self.num_prompts, 0
        while left:
            for request in first_requests[:left]:
                at_rest = loop == 0 and self.rate_scale == 1.0 and request.next_turn is None
                turns = [request] if at_rest else self._turns(request, loop, num_blocks, left)
                left -= len(turns)
                yield turns[0]
                if not left:
                    return
            loop += 1

    def _turns(self, request: Request, loop: int, num_blocks: int, left: int) -> list[Request]:
        """The turns of a session in a loop, `left` at most, linked."""
        turns = list(turns_of(request))[:left]
        following: Request | None = None
        for number in reversed(range(len(turns))):
            turn = turns[number]
            following = turns[number] = turn._replace(
                arrival_ns=(loop * self._span_ns + turn.arrival_ns) / self.rate_scale,
                hash_ids=tuple(loop * num_blocks + block for block in turn.hash_ids) if loop else turn.hash_ids,
                next_turn=following,
                delay_ns=turn.delay_ns / self.rate_scale,
            )
        return turns

    @property
    def _span_ns(self) -> float:
        """From one loop's first arrival to the next one's: the trace's span and a mean gap."""
        requests = self.trace.requests
        last_ns = requests[-1].arrival_ns
        return last_ns + last_ns / max(1, len(requests) - 1)

    def _num_blocks(self) -> int:
        return 1 + max((max(turn.hash_ids, default=0) for turn in self._turns_of_trace()), default=0)

    def _turns_of_trace(self) -> Iterator[Request]:
        return (turn for first in self.trace.requests for turn in turns_of(first))


def replay_of(
    trace: RequestTrace,
    num_prompts: int | None = None,
    rate: float | None = None,
    concurrency: int = 1,
    burstiness: float = 1.0,
    seed: int = 0,
) -> TraceReplay:
    """The replay of a trace as recorded, all of it unless `num_prompts` says otherwise. rate: how many times faster than
    recorded; of a trace without times, requests per second, and without a rate a closed loop of `concurrency`."""
    num_prompts = trace.num_requests if num_prompts is None else num_prompts
    if trace.timed and burstiness != 1:
        raise InputError(f"TraceReplay: burstiness={burstiness} shapes arrivals; the trace has its own")
    if trace.timed:
        return TraceReplay(trace, num_prompts, 1.0 if rate is None else rate)
    if rate is None:
        return TraceReplay(trace, num_prompts, max_concurrency=concurrency)
    return TraceReplay(trace, num_prompts, request_rate=rate, burstiness=burstiness, seed=seed)


def turns_of(first: Request) -> Iterator[Request]:
    """A request and those that hang from it."""
    turn: Request | None = first
    while turn is not None:
        yield turn
        turn = turn.next_turn

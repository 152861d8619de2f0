"""Replays of traces: the choices of a recorded or synthetic run, through hot buffers of any size and any store.

Knows traces, plans and what a fetch returns; knows no models and attends over nothing.

    spec = SyntheticSpec.published(131072)
    replay = Replay(spec.header(), [PlanOnly.of(spec.header(), capacity=6144)])
    replay.run(generate(spec, 1000))
    replay.counters[layer].misses, replay.counters[layer].fetched_lines(KvLayout.bf16())

With `RequestKv` in place of PlanOnly the misses are read from the request's store, wherever it lies and whatever it
is wrapped in, and `fetched_ns` is by that store's clock.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from sac_runtime.errors import TraceError
from sac_runtime.fetch.hot_buffer import Counters, HotBuffer
from sac_runtime.memory.store import Plan
from sac_runtime.rows.layout import IntArray
from sac_runtime.traces.format import TraceHeader, TraceStep


class Replayable(Protocol):
    """A request as a replay needs it: RequestKv, or PlanOnly."""

    @property
    def length(self) -> int: ...
    def begin_step(self) -> None: ...
    def fetch(self, layer: int, topk: IntArray) -> tuple[Plan, int]: ...


class Buffer(Protocol):
    """What decides where entries go: HotBuffer, or another rule to compare it with."""

    def plan(self, topk: IntArray, length: int | None = None) -> Plan: ...


class PlanOnly:
    """A request that plans and moves no bytes. buffers: one per layer; length: tokens before the first step."""

    def __init__(self, buffers: Sequence[Buffer], length: int) -> None:
        self.length = length
        self._buffers = buffers

    @classmethod
    def of(cls, header: TraceHeader, capacity: int, request: int = 0) -> Self:
        """A request of a trace with hot buffers of `capacity` slots."""
        buffers = [HotBuffer(capacity, header.top_k) for _ in range(header.num_layers)]
        return cls(buffers, header.context_tokens[request])

    def begin_step(self) -> None:
        self.length += 1

    def fetch(self, layer: int, topk: IntArray) -> tuple[Plan, int]:
        return self._buffers[layer].plan(topk, self.length), 0


@dataclass(frozen=True)
class ReplayedStep:
    """One step: plans[request][layer], and elapsed ns of their fetches by the store's clock."""

    index: int
    plans: tuple[tuple[Plan, ...], ...]
    fetched_ns: tuple[tuple[int, ...], ...]


class Replay:
    """Runs a trace through one Replayable for each of its requests.

    counters, fetched_ns: of each layer, over all requests and steps so far. Raises TraceError for requests that are not
    those of the trace, in number or length."""

    def __init__(self, header: TraceHeader, requests: Sequence[Replayable]) -> None:
        lengths = tuple(request.length for request in requests)
        if lengths != header.context_tokens:
            raise TraceError(f"replay: requests of {lengths} tokens, the trace has {header.context_tokens}")
        self.header = header
        self.counters = [Counters() for _ in range(header.num_layers)]
        self.fetched_ns = [0] * header.num_layers
        self._requests = requests

    def run(self, steps: Iterable[TraceStep]) -> Self:
        """Replay all of `steps`."""
        for step in steps:
            self.step(step)
        return self

    def step(self, step: TraceStep) -> ReplayedStep:
        """Replay one step: of each request, each layer."""
        for request in self._requests:
            request.begin_step()
        fetches = [
            [self._fetch(step, number, layer) for layer in range(self.header.num_layers)]
            for number in range(self.header.num_requests)
        ]
        plans = tuple(tuple(plan for plan, _ in layers) for layers in fetches)
        return ReplayedStep(step.index, plans, tuple(tuple(ns for _, ns in layers) for layers in fetches))

    def _fetch(self, step: TraceStep, number: int, layer: int) -> tuple[Plan, int]:
        plan, elapsed_ns = self._requests[number].fetch(layer, step.tokens(layer, number))
        self.counters[layer].count(plan)
        self.fetched_ns[layer] += elapsed_ns
        return plan, elapsed_ns

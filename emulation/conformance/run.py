"""Drives a job on a bed: gives each host its part, has what comes back compared with the truth. Knows beds and agents.

What the guests take for it is no figure: QEMU's wall clock says nothing about CXL.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType

from emulation.conformance.agent import Agent, LaneProcess
from emulation.conformance.exchange import BitFlip, Exchange, task_of
from emulation.conformance.places import places, places_of
from emulation.conformance.result import Result, check
from emulation.conformance.truth import Context, JobShape, require_published, require_trace
from emulation.errors import InputError
from emulation.machines.bed import Bed
from emulation.machines.side_by_side import side_by_side
from emulation.say import Say
from guest.agent.answer import Answer
from guest.agent.runtime import REFERENCE
from guest.agent.sac import geometry_of
from qemu_configs.growth import grown
from qemu_configs.rules.capacity import kernel_bytes
from qemu_configs.topology import MIB, Host, Topology

SYSTEM_BYTES, AGENT_BYTES = 256 * MIB, 128 * MIB  # of a guest, and of one agent beside its hot buffers
Connect = Callable[[str], AbstractContextManager[Agent]]


def run(
    bed: Bed, shape: JobShape, flip: BitFlip | None, say: Say, runtime: str = REFERENCE, contexts: int | None = None
) -> list[Result]:
    """Write one context into each memory of the bed, fetch from it, compare. flip: spoil the first context in between;
    runtime: the one under test, by name, as `guest.agent.runtime` finds it on the hosts; contexts: how many of the memories
    to use, all where it is None.
    Raises InputError, GuestError, MachineError; a mismatch is no error but in the results."""
    require_usable(shape, flip)
    require_fits(bed.topology, shape)
    exchanges = [
        Exchange(Context(shape, n), place, None if n else flip) for n, place in enumerate(places(bed)[:contexts])
    ]
    at_once = {host.name: _num_readers(bed.topology, host, shape) for host in bed.topology.hosts}
    answers = exchange_all(exchanges, partial(agent_on, bed), runtime, say, at_once)
    say("comparing with the truth")
    return [check(exchange, answer) for exchange, answer in zip(exchanges, answers, strict=True)]


def require_usable(shape: JobShape, flip: BitFlip | None) -> None:
    """Raise InputError for what could not be done on any bed: a trace of another shape, a context too short for choices as
    they were published, a flip outside the context."""
    if shape.trace is not None:
        require_trace(shape)
    else:
        require_published(shape)
    if flip is None:
        return
    limits = (shape.num_layers, shape.context_tokens, shape.layout.row_bytes)
    if any(not 0 <= at < limit for at, limit in zip((flip.layer, flip.token or 0, flip.byte), limits, strict=True)):
        raise InputError(
            f"job: flip={flip.layer}:{flip.token}:{flip.byte} lies outside {shape.num_layers} layers"
            f" of {shape.context_tokens} rows of {shape.layout.row_bytes} bytes"
        )


def require_fits(topology: Topology, shape: JobShape) -> None:
    """Raise InputError if no memory of the bed takes part, or one that does is too small for the pool of one context."""
    needed = geometry_of(task_of(shape, "")).size_bytes
    for place in places_of(topology):
        if place.size_bytes < needed:
            kind = "region" if place.devices else "numa node"
            raise InputError(
                f"job: {kind} '{place.writer_name}' of bed '{topology.name}' holds {place.size_bytes >> 20} MiB, the pool of"
                f" {shape.num_layers} layers of {shape.context_tokens} tokens takes {needed >> 20} MiB, the reader's half"
                " included; take fewer layers or tokens, or a bed with larger devices"
            )


def grown_for(topology: Topology, shape: JobShape) -> Topology:
    """`topology` with devices large enough for one context in each memory that takes part. Raises as `places_of`."""
    needed = geometry_of(task_of(shape, "")).size_bytes
    return grown(
        topology, {name: -(-needed // len(place.devices)) for place in places_of(topology) for name in place.devices}
    )


def require_room(topology: Topology, shape: JobShape, contexts: int | None, memory_folder: Path) -> None:
    """Raise InputError where the memory folder has no room for what the job writes: the writer's half of each pool. Devices
    that grew are sparse, and a full folder would end QEMU with SIGBUS."""
    used = places_of(topology)[:contexts]
    written = len(used) * geometry_of(task_of(shape, "")).size_bytes // 2
    free = shutil.disk_usage(memory_folder).free if memory_folder.is_dir() else written
    if free < written:
        raise InputError(
            f"job: {len(used)} contexts of {shape.num_layers} layers of {shape.context_tokens} tokens write {written >> 20} MiB,"
            f" memory folder {memory_folder} has {free >> 20} free; take fewer contexts, or another --memory-folder"
        )


def _num_readers(topology: Topology, host: Host, shape: JobShape) -> int:
    """How many contexts a host can decode at a time: one per CPU, as far as their hot buffers fit beside its system."""
    buffers_bytes = shape.num_layers * (shape.hot_buffer + 1) * shape.layout.row_bytes
    free_bytes = host.memory_bytes - SYSTEM_BYTES - kernel_bytes(host, topology)
    return max(1, min(host.vcpus, free_bytes // (buffers_bytes + AGENT_BYTES)))


@contextmanager
def agent_on(bed: Bed, host: str) -> Iterator[Agent]:
    """The agent on a host of the bed; it must have ended well when the body has. Raises GuestError."""
    with (
        bed.session(host) as session,
        bed.lane(host) as taken,
        session.python_process("guest.agent.worker", taken.words if taken else (), name=f"worker on {host}") as process,
    ):
        agent = Agent(LaneProcess(process, taken.lane) if taken else process, host)
        yield agent
        agent.finish()


def exchange_all(
    exchanges: Sequence[Exchange],
    connect: Connect,
    runtime: str,
    say: Say,
    at_once: Mapping[str, int] = MappingProxyType({}),
) -> list[Answer]:
    """Have every context written and fetched; answers in the order of `exchanges`. Those of one writer and one reader go
    together. connect: gives the agent on a host, by its name; at_once: how many contexts a host may read at a time, each by an
    agent of its own; 1 where it is not said."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, exchange in enumerate(exchanges):
        groups.setdefault((exchange.place.writer, exchange.place.reader), []).append(number)
    answers: dict[int, Answer] = {}
    for (_, reader), numbers in groups.items():
        group = [exchanges[number] for number in numbers]
        if any(exchange.place.is_private for exchange in group):
            found = _by_one_agent(group, connect, runtime, say)
        else:
            found = _by_two_hosts(group, connect, runtime, say, min(at_once.get(reader, 1), len(group)))
        answers |= zip(numbers, found, strict=True)
    return [answers[number] for number in range(len(exchanges))]


def _by_one_agent(exchanges: Sequence[Exchange], connect: Connect, runtime: str, say: Say) -> list[Answer]:
    """One agent both writes and reads, with one mapping of each memory."""
    answers = []
    with connect(exchanges[0].place.writer) as agent:
        for exchange in exchanges:
            with agent.opened(exchange.writer_task, runtime):
                exchange.write(agent, say)
                answers.append(exchange.read(agent, say))
    return answers


def _by_two_hosts(
    exchanges: Sequence[Exchange], connect: Connect, runtime: str, say: Say, num_readers: int
) -> list[Answer]:
    """The writer goes on to the next context while others are read."""
    written: SimpleQueue[Exchange | None] = SimpleQueue()
    answers: dict[int, Answer] = {}

    def write() -> None:
        try:
            with connect(exchanges[0].place.writer) as agent:
                for exchange in exchanges:
                    with agent.opened(exchange.writer_task, runtime):
                        exchange.write(agent, say)
                    written.put(exchange)
        finally:
            for _ in range(num_readers):
                written.put(None)  # a reader must not wait for a writer that failed

    def read() -> None:
        with connect(exchanges[0].place.reader) as agent:
            for exchange in iter(written.get, None):
                with agent.opened(exchange.reader_task, runtime):
                    answers[id(exchange)] = exchange.read(agent, say)

    side_by_side([write, *[read] * num_readers])
    return [answers[id(exchange)] for exchange in exchanges]

"""Drives a job on a bed: gives each host its part, has what comes back compared with the truth. Knows beds and agents.

What the guests take for it is no figure: QEMU's wall clock says nothing about CXL.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from queue import SimpleQueue

from emulation.conformance.agent import Agent
from emulation.conformance.exchange import BitFlip, Exchange, SharedMemory, task_of
from emulation.conformance.result import Result, check
from emulation.conformance.truth import Context, JobShape, require_trace
from emulation.errors import InputError, MachineError
from emulation.machines.bed import Bed
from emulation.machines.side_by_side import side_by_side
from emulation.say import Say
from guest.agent.answer import Answer
from guest.agent.runtime import REFERENCE
from guest.agent.sac import geometry_of
from qemu_configs.topology import Topology

Connect = Callable[[str], AbstractContextManager[Agent]]


def places(bed: Bed) -> list[SharedMemory]:
    """The memories of a bed that the job can use: with a pool, its regions as the first and the last host see them; without
    one, all that the first host has. Raises MachineError for a bed that has none."""
    pooled = {device for pool in bed.topology.pools for device in pool.devices}
    writer, reader = bed.record.hosts[0], bed.record.hosts[-1 if pooled else 0]
    regions = {region.name: region.devices for region in bed.topology.host(writer.name).regions}
    reader_names = {region.devices: region.name for region in bed.topology.host(reader.name).regions}
    usable = []
    for name, store in writer.stores.items():
        devices = regions.get(name, ())
        if not pooled:
            usable.append(SharedMemory(name, writer.name, store, reader.name, store, devices))
        elif devices and pooled.issuperset(devices) and devices in reader_names:
            store_there = reader.stores[reader_names[devices]]
            usable.append(SharedMemory(name, writer.name, store, reader.name, store_there, devices))
    if not usable:
        raise MachineError(
            f"bed '{bed.record.name}': has no memory that the runtime can map, neither region nor NUMA node"
            + (" (no stock kernel can online dynamic capacity)" if bed.topology.devices else "")
        )
    return usable


def run(bed: Bed, shape: JobShape, flip: BitFlip | None, say: Say, runtime: str = REFERENCE) -> list[Result]:
    """Write one context into each memory of the bed, fetch from it, compare. flip: spoil the first context in between;
    runtime: the one under test, by name, as `guest.agent.runtime` finds it on the hosts.
    Raises InputError, GuestError, MachineError; a mismatch is no error but in the results."""
    require_usable(shape, flip)
    require_fits(bed.topology, shape)
    exchanges = [Exchange(Context(shape, n), place, None if n else flip) for n, place in enumerate(places(bed))]
    answers = exchange_all(exchanges, partial(agent_on, bed), runtime, say)
    say("comparing with the truth")
    return [check(exchange, answer) for exchange, answer in zip(exchanges, answers, strict=True)]


def require_usable(shape: JobShape, flip: BitFlip | None) -> None:
    """Raise InputError for what could not be done on any bed: a trace of another shape, a flip outside the context."""
    if shape.trace is not None:
        require_trace(shape)
    if flip is None:
        return
    limits = (shape.num_layers, shape.context_tokens, shape.layout.row_bytes)
    if any(not 0 <= at < limit for at, limit in zip((flip.layer, flip.token or 0, flip.byte), limits, strict=True)):
        raise InputError(
            f"job: flip={flip.layer}:{flip.token}:{flip.byte} lies outside {shape.num_layers} layers"
            f" of {shape.context_tokens} rows of {shape.layout.row_bytes} bytes"
        )


def require_fits(topology: Topology, shape: JobShape) -> None:
    """Raise InputError if a memory of the bed is too small for the pool of one context."""
    needed = geometry_of(task_of(shape, "")).size_bytes
    host = topology.hosts[0]
    sizes = {f"region '{region.name}'": topology.region_size_bytes(region) for region in host.regions}
    sizes |= {f"numa node '{node.name}'": node.memory_bytes for node in host.numa_nodes}
    for owner, size_bytes in sizes.items():
        if size_bytes < needed:
            raise InputError(
                f"job: {owner} of bed '{topology.name}' holds {size_bytes >> 20} MiB, the pool of {shape.num_layers} layers"
                f" of {shape.context_tokens} tokens takes {needed >> 20} MiB, the reader's half included;"
                " take fewer layers or tokens, or a bed with larger devices"
            )


@contextmanager
def agent_on(bed: Bed, host: str) -> Iterator[Agent]:
    """The agent on a host of the bed; it must have ended well when the body has. Raises GuestError."""
    with (
        bed.session(host) as session,
        session.python_process("guest.agent.worker", name=f"worker on {host}") as process,
    ):
        agent = Agent(process, host)
        yield agent
        agent.finish()


def exchange_all(exchanges: Sequence[Exchange], connect: Connect, runtime: str, say: Say) -> list[Answer]:
    """Have every context written and fetched, in this order. connect: gives the agent on a host, by its name."""
    if any(exchange.place.is_private for exchange in exchanges):
        return _by_one_agent(exchanges, connect, runtime, say)
    return _by_two_agents(exchanges, connect, runtime, say)


def _by_one_agent(exchanges: Sequence[Exchange], connect: Connect, runtime: str, say: Say) -> list[Answer]:
    """One agent both writes and reads, with one mapping of each memory."""
    answers = []
    with connect(exchanges[0].place.writer) as agent:
        for exchange in exchanges:
            with agent.opened(exchange.writer_task, runtime):
                exchange.write(agent, say)
                answers.append(exchange.read(agent, say))
    return answers


def _by_two_agents(exchanges: Sequence[Exchange], connect: Connect, runtime: str, say: Say) -> list[Answer]:
    """One host reads a context while the other writes the next."""
    written: SimpleQueue[Exchange | None] = SimpleQueue()
    answers: list[Answer] = []

    def write() -> None:
        try:
            with connect(exchanges[0].place.writer) as agent:
                for exchange in exchanges:
                    with agent.opened(exchange.writer_task, runtime):
                        exchange.write(agent, say)
                    written.put(exchange)
        finally:
            written.put(None)  # a reader must not wait for a writer that failed

    def read() -> None:
        with connect(exchanges[0].place.reader) as agent:
            for exchange in iter(written.get, None):
                with agent.opened(exchange.reader_task, runtime):
                    answers.append(exchange.read(agent, say))

    side_by_side([write, read])
    return answers

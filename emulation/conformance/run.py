"""Drives the main job on a bed: gives each host its part, hands what comes back to the judge. Knows beds and workers.

What the guests take for it is no figure: QEMU's wall clock says nothing about CXL.
"""

import json
from collections.abc import Callable, Iterable
from itertools import chain
from threading import Semaphore
from typing import Any

from emulation.conformance.exchange import BitFlip, Exchange, SharedMemory, job_of
from emulation.conformance.result import Result, check
from emulation.conformance.truth import Context, JobShape, require_trace
from emulation.errors import InputError, MachineError
from emulation.machines.bed import Bed, Say, side_by_side
from guest.agent.worker import split_replies
from qemu_configs.topology import Topology


def places(bed: Bed) -> list[SharedMemory]:
    """The memories of a bed that the job can use: with a pool, its regions as the first and the last host see them; without
    one, all that the first host has. Raises MachineError for a bed that has none."""
    pooled = {device for pool in bed.topology.pools for device in pool.devices}
    writer, reader = bed.record.hosts[0], bed.record.hosts[-1 if pooled else 0]
    regions = {region.name: region.devices for region in bed.topology.host(writer.name).regions}
    reader_names = {region.devices: region.name for region in bed.topology.host(reader.name).regions}
    found = []
    for name, store in writer.stores.items():
        devices = regions.get(name, ())
        if not pooled:
            found.append(SharedMemory(name, writer.name, store, reader.name, store, devices))
        elif devices and pooled.issuperset(devices) and devices in reader_names:
            store_there = reader.stores[reader_names[devices]]
            found.append(SharedMemory(name, writer.name, store, reader.name, store_there, devices))
    if not found:
        raise MachineError(
            f"bed '{bed.record.name}': has no memory that the runtime can map, neither region nor NUMA node"
            + (" (no stock kernel can online dynamic capacity)" if bed.topology.devices else "")
        )
    return found


def run(bed: Bed, shape: JobShape, flip: BitFlip | None, progress: Say) -> list[Result]:
    """Write one context into each place of the bed, fetch from it, compare. flip: spoil the first context in between.
    Raises InputError, GuestError, MachineError; a mismatch is no error but in the verdicts."""
    require_usable(shape, flip)
    require_fits(bed.topology, shape)
    shares = [Exchange(Context(shape, n), place, None if n else flip) for n, place in enumerate(places(bed))]
    replies = _exchange(bed, shares, progress)
    progress("comparing with the truth")
    return [check(share, reply) for share, reply in zip(shares, replies, strict=True)]


def require_usable(shape: JobShape, flip: BitFlip | None) -> None:
    """Raise InputError for what could not be done on any bed: a trace of another shape, a flip outside the context."""
    if shape.trace is not None:
        require_trace(shape)
    if flip is None:
        return
    limits = (shape.num_layers, shape.context_tokens, shape.layout.row_bytes)
    if any(not 0 <= at < limit for at, limit in zip((flip.layer, flip.token or 0, flip.byte), limits, strict=True)):
        raise InputError(
            f"run: flip={flip.layer}:{flip.token}:{flip.byte} lies outside {shape.num_layers} layers"
            f" of {shape.context_tokens} rows of {shape.layout.row_bytes} bytes"
        )


def require_fits(topology: Topology, shape: JobShape) -> None:
    """Raise InputError if a memory of the bed is too small for the pool of one context."""
    needed = job_of(shape, "").geometry.size_bytes
    host = topology.hosts[0]
    sizes = {f"region '{region.name}'": topology.region_size_bytes(region) for region in host.regions}
    sizes |= {f"numa node '{node.name}'": node.memory_bytes for node in host.numa_nodes}
    for owner, size_bytes in sizes.items():
        if size_bytes < needed:
            raise InputError(
                f"run: {owner} of bed '{topology.name}' holds {size_bytes >> 20} MiB, the pool of {shape.num_layers} layers"
                f" of {shape.context_tokens} tokens takes {needed >> 20} MiB, the reader's half included;"
                " take fewer layers or tokens, or a bed with larger devices"
            )


def _exchange(bed: Bed, shares: list[Exchange], progress: Say) -> list[bytes]:
    """Have every context written and fetched: one host reads a context while the other writes the next."""
    writer, reader = shares[0].place.writer, shares[0].place.reader
    to_write = [task for share in shares for task in share.writing()]
    to_read = [task for share in shares for task in share.reading()]
    if any(share.place.is_private for share in shares):
        tasks = [task for share in shares for task in (*share.writing(), *share.reading())]
        for share in shares:
            for _ in share.writing():
                share.written.release()  # one worker does one task after another: nobody has to wait
        request = chain.from_iterable(chain(share.to_write(progress), share.questions(progress)) for share in shares)
        return [reply for reply in _work(bed, writer, tasks, request) if reply]
    doorbell = _Doorbell([share.written for share in shares for _ in share.writing()])
    replies: list[bytes] = []

    def write() -> None:
        try:
            _work(
                bed, writer, to_write, chain.from_iterable(share.to_write(progress) for share in shares), doorbell.heard
            )
        finally:
            doorbell.ring_all()  # a reader must not wait for a writer that failed

    def read() -> None:
        replies.extend(_work(bed, reader, to_read, chain.from_iterable(share.questions(progress) for share in shares)))

    side_by_side([write, read])
    return replies


class _Doorbell:
    """Rings one bell after another as a writer's empty replies, eight bytes each, come in."""

    def __init__(self, bells: list[Semaphore]) -> None:
        self._bells = bells
        self._heard_bytes = 0

    def heard(self, chunk: bytes) -> None:
        rung, self._heard_bytes = self._heard_bytes // 8, self._heard_bytes + len(chunk)
        for bell in self._bells[rung : self._heard_bytes // 8]:
            bell.release()

    def ring_all(self) -> None:
        for bell in self._bells:
            bell.release()


def _work(
    bed: Bed,
    host: str,
    tasks: list[dict[str, Any]],
    request: Iterable[bytes],
    heard: Callable[[bytes], None] | None = None,
) -> list[bytes]:
    """Have a worker on `host` do `tasks`; returns its replies."""
    with bed.session(host) as session:
        outcome = session.python(
            "guest.agent.worker", [json.dumps(tasks)], request, heard=heard, name=f"worker on {host}"
        )
    return split_replies(outcome.stdout)

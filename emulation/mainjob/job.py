"""Drives the main job on a bed: gives each host its part and compares what comes back with the truth. Knows beds and workers.

What the guests took for it is no figure: QEMU's wall clock says nothing about CXL. Every result is labelled `functional`.
"""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from emulation.errors import InputError, MachineError
from emulation.machines.bed import Bed, Progress
from emulation.mainjob.context import Context, JobShape
from emulation.mainjob.reference import SOFTMAX_SCALE
from sac_runtime.label import Label
from sac_runtime.layout import ByteArray, FloatArray, IntArray
from sac_runtime.worker import Job, digests

# fp32 sums over 2048 entries in another order than the reference's fp64; outputs are means of values of size 1.
ATTENTION_TOLERANCE = 1e-4
MISMATCHES_SHOWN = 10
CONNECT_DEADLINE_S = 30.0


@dataclass(frozen=True)
class Place:
    """One memory that holds a context, as the host that writes and the host that reads map it."""

    name: str
    writer: str
    writer_store: str
    reader: str
    reader_store: str

    @property
    def is_private(self) -> bool:
        """Whether the memory is one process's own, so that one process must both write and read."""
        return self.writer_store.startswith("numa:")


@dataclass(frozen=True)
class Flip:
    """One bit of a written row to be flipped behind the pool's back. token None: the first that the first step chooses."""

    layer: int
    token: int | None = None
    byte: int = 0


@dataclass(frozen=True)
class Verdict:
    """What was found for one context. fetched_*: what the reader's misses moved; lines: cache lines that they touched;
    entries: rows as attention saw them, over all steps and layers; mismatches: sentences, empty if all is right."""

    place: Place
    fetched_rows: int
    fetched_bytes: int
    fetched_lines: int
    entries: int
    entries_right: int
    attention_error: float
    mismatches: list[str]
    misses: IntArray = field(repr=False)
    miss_tokens: IntArray = field(repr=False)
    label: Label = Label.FUNCTIONAL

    def record(self) -> dict[str, Any]:
        """For --json."""
        arrays = {"misses": self.misses.tolist(), "miss_tokens": None, "place": asdict(self.place)}
        return {name: value for name, value in {**vars(self), **arrays}.items() if value is not None}


def places(bed: Bed) -> list[Place]:
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
            found.append(Place(name, writer.name, store, reader.name, store))
        elif devices and pooled.issuperset(devices) and devices in reader_names:
            found.append(Place(name, writer.name, store, reader.name, reader.stores[reader_names[devices]]))
    if not found:
        raise MachineError(
            f"bed '{bed.record.name}': has no memory that the runtime can map, neither region nor NUMA node"
            + (" (no stock kernel can online dynamic capacity)" if bed.topology.devices else "")
        )
    return found


def run(bed: Bed, shape: JobShape, flip: Flip | None, progress: Progress) -> list[Verdict]:
    """Write one context into each place of the bed, fetch from it, compare. flip: spoil the first context in between.
    Raises InputError, GuestError, MachineError; a mismatch is no error but in the verdicts."""
    if flip and not (0 <= flip.layer < shape.num_layers and 0 <= flip.byte < shape.layout.row_bytes):
        raise InputError(
            f"run: flip {flip.layer}:{flip.token}:{flip.byte} lies outside {shape.num_layers} layers"
            f" of rows of {shape.layout.row_bytes} bytes"
        )
    return [
        _run_one(bed, place, Context(shape, n), None if n else flip, progress) for n, place in enumerate(places(bed))
    ]


def _run_one(bed: Bed, place: Place, context: Context, flip: Flip | None, progress: Progress) -> Verdict:
    shape, truth = context.shape, _Truth(context)
    roles = "populate,corrupt" if flip else "populate"
    to_write = chain(truth.prefix(), _spoiling(context, flip))
    progress(f"{place.name}: {place.writer} writes {shape.num_layers} layers of {shape.context_tokens} tokens")
    if place.is_private:
        reply = _work(
            bed, place.writer, f"{roles},fetch", place.writer_store, shape, chain(to_write, truth.questions())
        )
    else:
        _work(bed, place.writer, roles, place.writer_store, shape, to_write)
        progress(
            f"{place.name}: {place.reader} decodes {shape.num_steps} tokens with the top {shape.top_k} of each layer"
        )
        reply = _work(bed, place.reader, "fetch", place.reader_store, shape, truth.questions())
    with np.load(io.BytesIO(reply)) as arrays:
        return _judge(context, place, truth, dict(arrays))


class _Truth:
    """What is kept of a context outside the guests: the hash of each row and the expected attention."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.digests: list[ByteArray] = []  # by layer, (T + S, 16)
        self.attention: list[list[FloatArray]] = []  # by layer and step
        self._new_rows: list[ByteArray] = []  # by layer, (S, row_bytes)

    def prefix(self) -> Iterator[bytes]:
        """The request of populate; each layer is hashed and attended to on its way out, and then forgotten."""
        context, shape = self._context, self._context.shape
        yield context.token_ids.tobytes()
        for layer in range(shape.num_layers):
            rows = context.rows(layer)
            yield rows[: shape.context_tokens].tobytes()
            self.digests.append(digests(rows))
            self._new_rows.append(rows[shape.context_tokens :])
            self.attention.append([context.expected_attention(step, layer, rows) for step in range(shape.num_steps)])

    def questions(self) -> Iterator[bytes]:
        """The request of fetch."""
        context, shape = self._context, self._context.shape
        yield context.token_ids.tobytes()
        for step in range(shape.num_steps):
            for layer in range(shape.num_layers):
                yield context.scores(step, layer).tobytes()
                yield context.query(step, layer).tobytes()
                yield self._new_rows[layer][step].tobytes()


def _spoiling(context: Context, flip: Flip | None) -> Iterator[bytes]:
    """The request of corrupt, if there is to be any."""
    if flip is None:
        return
    token = int(context.topk[0].tokens(flip.layer)[0]) if flip.token is None else flip.token
    yield np.array([flip.layer, token, flip.byte], np.int64).tobytes()
    yield context.token_ids.tobytes()


def _work(bed: Bed, host: str, roles: str, store: str, shape: JobShape, request: Iterable[bytes]) -> bytes:
    """Have a worker on `host` do `roles`; returns what it replied."""
    job = Job(
        store=store,
        layout=shape.rows,
        num_contexts=1,
        context_tokens=shape.context_tokens,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        top_k=shape.top_k,
        capacity=shape.hot_buffer,
        num_steps=shape.num_steps,
        softmax_scale=SOFTMAX_SCALE,
        create=True,
    )
    with bed.session(host) as session:
        return session.python("sac_runtime.worker", [roles, json.dumps(asdict(job))], stdin=request).stdout


def _judge(context: Context, place: Place, truth: _Truth, reply: dict[str, Any]) -> Verdict:
    shape = context.shape
    wrong = [f"layer {layer}: its canary is not where the reader looks" for layer in reply["wrong_canaries"].tolist()]
    entries_right, error = 0, 0.0
    for step in range(shape.num_steps):
        for layer in range(shape.num_layers):
            chosen = context.topk[step].tokens(layer)
            found = reply["positions"][step, layer][: len(chosen)]
            if not np.array_equal(found, chosen):
                wrong.append(f"step {step}, layer {layer}: the top-k differs from the exact one")
                continue
            same = (reply["digests"][step, layer][: len(chosen)] == truth.digests[layer][chosen]).all(axis=1)
            entries_right += int(same.sum())
            wrong += [_misplaced(truth, step, layer, int(row)) for row in chosen[~same]]
            off = np.abs(reply["attention"][step, layer] - truth.attention[layer][step]).max()
            error = float(max(error, off)) if np.isfinite(off) else float("inf")
            if not off <= ATTENTION_TOLERANCE:
                wrong.append(
                    f"step {step}, layer {layer}: attention is off by {off:.3g} (allowed {ATTENTION_TOLERANCE:g})"
                )
            if not np.array_equal(reply["written"][step, layer], truth.digests[layer][shape.context_tokens + step]):
                wrong.append(f"step {step}, layer {layer}: the new token's row was not written back as it is")
    misses = reply["misses"].astype(np.int64)
    rows = int(misses.sum())
    layout = shape.layout
    lines = rows * layout.lines_per_row
    entries = sum(len(step.tokens(layer)) for step in context.topk for layer in range(shape.num_layers))
    return Verdict(
        place, rows, rows * layout.row_bytes, lines, entries, entries_right, error, wrong, misses, reply["miss_tokens"]
    )


def _misplaced(truth: _Truth, step: int, layer: int, row: int) -> str:
    return f"step {step}, layer {layer}, row {row}: its bytes are not those that were written"

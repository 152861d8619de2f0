"""One context at its place: what its hosts are asked, the truth that stays outside, and the comparison. Knows no bed.

A result here is about bytes and is labelled `functional`: it claims no time.
"""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from threading import Semaphore
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emulation.mainjob.context import Context, JobShape
from emulation.mainjob.reference import SOFTMAX_SCALE
from sac_runtime.label import Label
from sac_runtime.layout import ByteArray, FloatArray, IntArray
from sac_runtime.worker import Job, digests

# fp32 sums over 2048 entries in another order than the reference's fp64; outputs are means of values of size 1.
ATTENTION_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Place:
    """One memory that holds a context, as the host that writes and the host that reads map it."""

    name: str
    writer: str
    writer_store: str
    reader: str
    reader_store: str
    devices: tuple[str, ...] = ()  # of the bed file; none for a NUMA node of its own

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

    COLUMNS: ClassVar = (
        "store",
        "written by",
        "fetched by",
        "rows",
        "bytes",
        "lines",
        "verified",
        "attention error",
        "label",
    )

    def cells(self) -> list[str | int | float | None]:
        """One row of a table under COLUMNS."""
        place = self.place
        return [
            place.name,
            f"{place.writer} {place.writer_store}",
            f"{place.reader} {place.reader_store}",
            self.fetched_rows,
            self.fetched_bytes,
            self.fetched_lines,
            f"{self.entries_right:,} of {self.entries:,} entries",
            self.attention_error,
            str(self.label),
        ]

    def record(self) -> dict[str, Any]:
        """For --json."""
        plain = {"misses": self.misses.tolist(), "place": asdict(self.place)}
        plain["attention_error"] = (
            self.attention_error if np.isfinite(self.attention_error) else None
        )  # JSON has no inf
        return {name: value for name, value in {**vars(self), **plain}.items() if name != "miss_tokens"}


class Share:
    """One context, the place that holds it and its truth: the hash of each row and the expected attention."""

    def __init__(self, context: Context, place: Place, flip: Flip | None) -> None:
        self.context = context
        self.place = place
        self.written = Semaphore(0)  # released once for each task of `writing` that is done, or will never be
        self.digests: list[ByteArray] = []  # by layer, (T + S, 16)
        self.attention: list[list[FloatArray]] = []  # by layer and step
        self._flip = flip
        self._new_rows: list[ByteArray] = []  # by layer, (S, row_bytes)

    def writing(self) -> list[dict[str, Any]]:
        """Tasks of the host that writes."""
        roles = ["populate", "corrupt"] if self._flip else ["populate"]
        return [self._task(role, self.place.writer_store) for role in roles]

    def reading(self) -> list[dict[str, Any]]:
        """Tasks of the host that reads."""
        return [self._task("fetch", self.place.reader_store)]

    def to_write(self, progress: Callable[[str], None]) -> Iterator[bytes]:
        """The requests of `writing`. While a layer is on its way the next is made, hashed and attended to; none is kept."""
        shape = self.context.shape
        progress(
            f"{self.place.name}: {self.place.writer} writes {shape.num_layers} layers of {shape.context_tokens} tokens"
        )
        yield self.context.token_ids.tobytes()
        with ThreadPoolExecutor(max_workers=1) as beside:
            made = beside.submit(self._make, 0)
            for layer in range(1, shape.num_layers + 1):
                rows = made.result()
                if layer < shape.num_layers:
                    made = beside.submit(self._make, layer)
                yield rows[: shape.context_tokens].tobytes()
        if self._flip is not None:
            token = self._flip.token
            token = int(self.context.topk[0].tokens(self._flip.layer)[0]) if token is None else token
            yield np.array([self._flip.layer, token, self._flip.byte], np.int64).tobytes()
            yield self.context.token_ids.tobytes()

    def questions(self, progress: Callable[[str], None]) -> Iterator[bytes]:
        """The request of `reading`, once the context is written; empty if it never will be."""
        context, shape = self.context, self.context.shape
        for _ in self.writing():
            self.written.acquire()
        if len(self._new_rows) < shape.num_layers:
            return
        progress(
            f"{self.place.name}: {self.place.reader} decodes {shape.num_steps} tokens, top-k {shape.top_k} a layer"
        )
        yield context.token_ids.tobytes()
        for step in range(shape.num_steps):
            for layer in range(shape.num_layers):
                yield context.scores(step, layer).tobytes()
                yield context.query(step, layer).tobytes()
                yield self._new_rows[layer][step].tobytes()

    def _make(self, layer: int) -> ByteArray:
        rows = self.context.rows(layer)
        self.digests.append(digests(rows))
        self.attention.append(self.context.expected_attention(layer, rows))
        self._new_rows.append(rows[self.context.shape.context_tokens :].copy())
        return rows

    def _task(self, role: str, store: str) -> dict[str, Any]:
        return {"role": role, "job": asdict(job_of(self.context.shape, store))}


def job_of(shape: JobShape, store: str) -> Job:
    """What a worker is told of a job of this shape on `store`."""
    return Job(
        store=store,
        layout=shape.rows,
        context_tokens=shape.context_tokens,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        top_k=shape.top_k,
        capacity=shape.hot_buffer,
        num_steps=shape.num_steps,
        softmax_scale=SOFTMAX_SCALE,
    )


def judge(share: Share, reply: bytes) -> Verdict:
    """Compare what a reader replied with the truth."""
    with np.load(io.BytesIO(reply)) as archive:
        found = dict(archive)
    layout = share.context.shape.layout
    wrong = [f"layer {layer}: its canary is not where the reader looks" for layer in found["wrong_canaries"].tolist()]
    wrong += [sentence for at in np.ndindex(found["misses"].shape) for sentence in _mismatches(share, found, *at)]
    right = [_entries_right(share, found, *at) for at in np.ndindex(found["misses"].shape)]
    errors = [_attention_error(share, found, *at) for at in np.ndindex(found["misses"].shape)]
    rows = int(found["misses"].sum())
    return Verdict(
        place=share.place,
        fetched_rows=rows,
        fetched_bytes=rows * layout.row_bytes,
        fetched_lines=rows * layout.lines_per_row,
        entries=sum(map(len, right)),
        entries_right=sum(int(each.sum()) for each in right),
        attention_error=max(errors),
        mismatches=wrong,
        misses=found["misses"],
        miss_tokens=found["miss_tokens"],
    )


def _entries_right(share: Share, found: dict[str, Any], step: int, layer: int) -> NDArray[np.bool_]:
    """Which of the entries that the step must choose were attended to with the bytes that were written."""
    chosen = share.context.topk[step].tokens(layer)
    same_place = found["positions"][step, layer][: len(chosen)] == chosen
    same_bytes = (found["digests"][step, layer][: len(chosen)] == share.digests[layer][chosen]).all(axis=1)
    right: NDArray[np.bool_] = same_place & same_bytes
    return right


def _attention_error(share: Share, found: dict[str, Any], step: int, layer: int) -> float:
    """Largest deviation of an output; infinite where one is no number."""
    error = np.abs(found["attention"][step, layer] - share.attention[layer][step]).max()
    return float(error) if np.isfinite(error) else float("inf")


def _mismatches(share: Share, found: dict[str, Any], step: int, layer: int) -> Iterator[str]:
    where = f"step {step}, layer {layer}"
    chosen = share.context.topk[step].tokens(layer)
    for row in chosen[~_entries_right(share, found, step, layer)].tolist():
        yield f"{where}, row {row}: not chosen, or its bytes are not those that were written"
    error = _attention_error(share, found, step, layer)
    if error > ATTENTION_TOLERANCE:
        yield f"{where}: attention is off by {error:.3g} (allowed: {ATTENTION_TOLERANCE:g})"
    newest = share.context.shape.context_tokens + step
    if not np.array_equal(found["written"][step, layer], share.digests[layer][newest]):
        yield f"{where}, row {newest}: was not written back as it is"

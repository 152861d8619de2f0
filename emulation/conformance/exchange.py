"""One context at its place: what its hosts are asked, the truth that stays outside, and the comparison. Knows no bed.

A result here is about bytes and is labelled `functional`: it claims no time.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from threading import Semaphore
from typing import Any

import numpy as np

from emulation.conformance.oracle import SOFTMAX_SCALE
from emulation.conformance.truth import Context, JobShape
from guest.agent.worker import Job, digests
from sac_runtime.rows.layout import ByteArray, FloatArray


@dataclass(frozen=True)
class SharedMemory:
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
class BitFlip:
    """One bit of a written row to be flipped behind the pool's back. token None: the first that the first step chooses."""

    layer: int
    token: int | None = None
    byte: int = 0


class Exchange:
    """One context, the place that holds it and its truth: the hash of each row and the expected attention."""

    def __init__(self, context: Context, place: SharedMemory, flip: BitFlip | None) -> None:
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

"""One context in one memory: what its hosts are asked, and the truth that stays outside. Knows agents, no bed."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from emulation.conformance.agent import Agent
from emulation.conformance.oracle import SOFTMAX_SCALE
from emulation.conformance.truth import Context, JobShape
from guest.agent.answer import DIGEST_BYTES, Answer, digests
from guest.agent.runtime import LayerInput
from guest.agent.task import Task
from sac_runtime.memory.spec import StoreSpec
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
        return StoreSpec.parse(self.writer_store).is_private


@dataclass(frozen=True)
class BitFlip:
    """One bit of a written row to be flipped behind the pool's back. token None: the first that the first step chooses."""

    layer: int
    token: int | None = None
    byte: int = 0


class Exchange:
    """One context, the memory that holds it and its truth: the hash of each row and the expected attention, known once it is
    written. flip: a bit to spoil after writing."""

    def __init__(self, context: Context, place: SharedMemory, flip: BitFlip | None = None) -> None:
        self.context = context
        self.place = place
        self.writer_task = task_of(context.shape, place.writer_store)
        self.reader_task = task_of(context.shape, place.reader_store)
        self.digests: list[ByteArray] = []  # by layer, (T + S, 16); zero for rows that no step chooses
        self.attention: list[list[FloatArray]] = []  # by layer and step
        self._flip = flip
        self._new_rows: list[ByteArray] = []  # by layer, (S, row_bytes)

    def write(self, agent: Agent, say: Callable[[str], None]) -> None:
        """Have the context written, and spoiled where a flip was asked for. The agent has the writer's task open."""
        shape, tokens = self.context.shape, self.context.token_ids
        say(f"{self.place.name}: {self.place.writer} writes {shape.num_layers} layers of {shape.context_tokens} tokens")
        agent.populate(tokens, self._layers())
        if self._flip is not None:
            token = self._flip.token
            token = int(self.context.topk[0].tokens(self._flip.layer)[0]) if token is None else token
            agent.flip(tokens, self._flip.layer, token, self._flip.byte)

    def read(self, agent: Agent, say: Callable[[str], None]) -> Answer:
        """Have the written context decoded. The agent has the reader's task open."""
        shape = self.context.shape
        say(f"{self.place.name}: {self.place.reader} decodes {shape.num_steps} tokens, top-k {shape.top_k} per layer")
        return agent.fetch(self.reader_task, self.context.token_ids, self._inputs())

    def _layers(self) -> Iterator[ByteArray]:
        """The prefix's rows. While a layer is on its way the next is made, hashed and attended to; none is kept."""
        shape = self.context.shape
        with ThreadPoolExecutor(max_workers=1) as beside:
            made = beside.submit(self._make, 0)
            for layer in range(1, shape.num_layers + 1):
                rows = made.result()
                if layer < shape.num_layers:
                    made = beside.submit(self._make, layer)
                yield rows[: shape.context_tokens]

    def _make(self, layer: int) -> ByteArray:
        rows, kept = self.context.rows(layer), self.context.kept(layer)
        hashes = np.zeros((len(rows), DIGEST_BYTES), np.uint8)
        hashes[kept] = digests(rows[kept])
        self.digests.append(hashes)
        self.attention.append(self.context.expected_attention(layer, rows))
        self._new_rows.append(rows[self.context.shape.context_tokens :].copy())
        return rows

    def _inputs(self) -> Iterator[LayerInput]:
        context = self.context
        for step in range(context.shape.num_steps):
            for layer in range(context.shape.num_layers):
                yield LayerInput(context.scores(step, layer), context.query(step, layer), self._new_rows[layer][step])


def task_of(shape: JobShape, store: str) -> Task:
    """What an agent is told of a job of this shape on `store`."""
    return Task(
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

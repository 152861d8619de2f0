"""The contexts of a job and their truth: rows, scores, queries, the hash of every row, the expected attention.

All of it follows from a seed and stays outside the guests; they get rows, scores and queries and answer with hashes and outputs.
Knows numbers, not beds.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from emulation.conformance.oracle import LATENT, ROPE, decode, dense_masked_attention
from emulation.errors import InputError
from guest.agent.guards import POISON_BYTE
from guest.agent.task import LAYOUTS
from sac_runtime.errors import GeometryError
from sac_runtime.rows.layout import DEEPSEEK_TOP_K, SAC_BUFFER_SLOTS, ByteArray, FloatArray, IntArray, KvLayout
from sac_runtime.rows.quantise import pack_rows
from sac_runtime.traces import synthetic
from sac_runtime.traces.format import TraceStep
from sac_runtime.traces.tables import Trace, open_trace


@dataclass(frozen=True)
class JobShape:
    """How large the job is. `rows`: "fp8" or "bf16"; `trace`: a recorded trace whose choices are replayed, or None."""

    context_tokens: int = 16384
    num_layers: int = 4
    num_heads: int = 8
    top_k: int = DEEPSEEK_TOP_K
    rows: str = "fp8"
    num_steps: int = 3
    hot_buffer: int = SAC_BUFFER_SLOTS
    seed: int = 0
    trace: Path | None = None

    def __post_init__(self) -> None:
        for field in ("context_tokens", "num_layers", "num_heads", "top_k", "num_steps", "hot_buffer"):
            if getattr(self, field) < 1:
                raise InputError(f"job: {field}={getattr(self, field)} must be at least 1")
        if self.seed < 0:
            raise InputError(f"job: seed={self.seed} must be at least 0")
        if self.rows not in LAYOUTS:
            raise InputError(f"job: rows='{self.rows}' must be one of {', '.join(LAYOUTS)}")
        if self.top_k >= self.context_tokens:
            raise InputError(
                f"job: top_k={self.top_k} must be below context_tokens={self.context_tokens}, or nothing is sparse"
            )
        if self.hot_buffer < self.top_k:
            raise InputError(
                f"job: hot_buffer={self.hot_buffer} must be at least top_k={self.top_k}: a step needs all of it"
            )

    @property
    def layout(self) -> KvLayout:
        return LAYOUTS[self.rows]


@dataclass(frozen=True)
class Context:
    """One request's context. Tokens [0, T) are the prefix that one host writes; token T + s is the new one of decode step s."""

    shape: JobShape
    number: int

    @cached_property
    def topk(self) -> list[TraceStep]:
        """The choice of every step and layer: replayed from the trace, or generated (`sac_runtime.traces.synthetic`)."""
        steps: Iterable[TraceStep] = (
            require_trace(self.shape) if self.shape.trace else _generated(self.shape, self.shape.seed + self.number)
        )
        return [step for step, _ in zip(steps, range(self.shape.num_steps), strict=False)]

    @cached_property
    def token_ids(self) -> IntArray:
        """(T,) the prefix's tokens, from which its blocks are named."""
        return self._random("tokens").integers(0, 129280, self.shape.context_tokens)  # DeepSeek-V3.2's vocabulary

    def rows(self, layer: int) -> ByteArray:
        """(T + steps, row_bytes) uint8: rows as written; those of the prefix that no step chooses are NaN throughout, and no
        value is made for them."""
        kept = self.kept(layer)
        values = self._random("rows", layer).standard_normal((kept.size, LATENT + ROPE), dtype=np.float32)
        num_tokens = self.shape.context_tokens + self.shape.num_steps
        rows = np.full((num_tokens, self.shape.layout.row_bytes), POISON_BYTE, np.uint8)
        rows[kept] = pack_rows(self.shape.layout, values[:, :LATENT], values[:, LATENT:])
        return rows

    def scores(self, step: int, layer: int) -> FloatArray:
        """(T + step + 1,) indexer scores whose exact top-k is the step's choice: normal deviates in random order, of
        which the largest k went to the chosen tokens."""
        random = self._random("scores", layer, step)
        chosen = self.topk[step].tokens(layer)
        deviates = np.sort(random.standard_normal(self.shape.context_tokens + step + 1, dtype=np.float32))
        scores = np.empty_like(deviates)
        rest = np.ones(len(deviates), dtype=bool)
        rest[chosen] = False
        scores[chosen] = random.permutation(deviates[len(deviates) - len(chosen) :])
        scores[rest] = random.permutation(deviates[: len(deviates) - len(chosen)])
        return scores

    def query(self, step: int, layer: int) -> FloatArray:
        """(H, LATENT + ROPE) absorbed queries."""
        return self._random("query", layer, step).standard_normal(
            (self.shape.num_heads, LATENT + ROPE), dtype=np.float32
        )

    def expected_attention(self, layer: int, rows: ByteArray) -> list[FloatArray]:
        """(H, D) fp32 for each step, by the dense masked reference over the rows that hold values: all others are masked at
        every step. rows: what `rows(layer)` returned."""
        kept = self.kept(layer)
        values = decode(rows[kept], self.shape.rows)
        chosen = [np.searchsorted(kept, step.tokens(layer)) for step in self.topk]
        return [
            dense_masked_attention(self.query(step.index, layer), values, each)
            for step, each in zip(self.topk, chosen, strict=True)
        ]

    def kept(self, layer: int) -> IntArray:
        """(n,) int64, ascending: the tokens whose rows hold values, those that some step chooses and the new ones."""
        chosen = np.zeros(self.shape.context_tokens + self.shape.num_steps, dtype=bool)
        chosen[self.shape.context_tokens :] = True
        for step in self.topk:
            chosen[step.tokens(layer)] = True
        return np.flatnonzero(chosen)

    def _random(self, purpose: str, *numbers: int) -> np.random.Generator:
        name = f"{purpose} {self.shape.seed} {self.number} {numbers}".encode()
        return np.random.Generator(np.random.SFC64(int.from_bytes(hashlib.blake2b(name, digest_size=16).digest())))


def _generated(shape: JobShape, seed: int) -> Iterator[TraceStep]:
    spec = synthetic.SyntheticSpec.published(shape.context_tokens, shape.top_k, shape.num_layers, seed)
    return synthetic.generate(spec, shape.num_steps)


def require_published(shape: JobShape) -> None:
    """Raise InputError where choices as they were published cannot be drawn for `shape`."""
    try:
        synthetic.SyntheticSpec.published(shape.context_tokens, shape.top_k, shape.num_layers, shape.seed)
    except GeometryError as error:
        raise InputError(
            f"job: context_tokens={shape.context_tokens} is too short for top_k={shape.top_k}: the choices that are drawn as"
            f" published take at least {synthetic.LEAST_PUBLISHED_CONTEXT} x top_k (take a longer context, a smaller top_k, or"
            " a recorded trace)"
        ) from error


def require_trace(shape: JobShape) -> Trace:
    """The trace of `shape`. Raises InputError where it is not there or records another shape, TraceError where it is damaged."""
    assert shape.trace is not None
    reader = open_trace(shape.trace)
    header = reader.header
    if (
        header.context_tokens[0] != shape.context_tokens
        or header.top_k != shape.top_k
        or header.num_layers < shape.num_layers
    ):
        raise InputError(
            f"trace {shape.trace}: holds {header.context_tokens[0]} tokens, top-k {header.top_k}, {header.num_layers} layers;"
            f" asked for are {shape.context_tokens}, {shape.top_k}, {shape.num_layers}"
        )
    num_steps = sum(1 for _ in zip(range(shape.num_steps), reader, strict=False))
    if num_steps < shape.num_steps:
        raise InputError(f"trace {shape.trace}: holds {num_steps} steps; asked for are {shape.num_steps}")
    return reader

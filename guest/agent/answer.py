"""What a reader saw of one context, as arrays of fixed shape. Knows shapes and hashes; whether they are right is not its matter."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guest.agent.errors import ContractError
from guest.agent.protocol import Array, Kind, Message
from guest.agent.runtime import LayerOutput
from guest.agent.task import Task
from sac_runtime.rows.layout import ByteArray, FloatArray, IntArray

DIGEST_BYTES = 16


@dataclass(frozen=True, eq=False)
class Answer:
    """For S steps, L layers, k entries; letters as in Task. positions: (S, L, k) int32, -1 past the end of a short sequence;
    digests: (S, L, k, 16) uint8, blake2b of each row as attention read it; attention: (S, L, H, D) float32; written:
    (S, L, 16) uint8, blake2b of each new row as the memory holds it; misses: (S, L) int32; miss_tokens: (sum of misses,)
    int64, step by step and layer by layer; wrong_canaries: (n,) int64, layers without their guard row."""

    positions: NDArray[np.int32]
    digests: ByteArray
    attention: FloatArray
    written: ByteArray
    misses: NDArray[np.int32]
    miss_tokens: IntArray
    wrong_canaries: IntArray

    @classmethod
    def of(cls, task: Task, message: Message) -> "Answer":
        """The answer in a message. Raises MessageError where an array is missing or does not fit the task."""
        shapes = _shapes(task)
        arrays = {name: message.array(name, *shapes[name]) for name in shapes}
        num_misses = int(arrays["misses"].sum(dtype=np.int64))
        num_wrong = message.arrays["wrong_canaries"].size if "wrong_canaries" in message.arrays else 0
        return cls(
            **arrays,
            miss_tokens=message.array("miss_tokens", "int64", num_misses),
            wrong_canaries=message.array("wrong_canaries", "int64", num_wrong),
        )

    def message(self) -> Message:
        """As it travels."""
        return Message(Kind.ANSWER, arrays={field.name: getattr(self, field.name) for field in fields(self)})


class AnswerDraft:
    """An answer that fills layer by layer. runtime: whose outputs come, for messages."""

    def __init__(self, task: Task, runtime: str) -> None:
        self._task = task
        self._runtime = runtime
        self._arrays: dict[str, Array] = {
            name: np.zeros(shape, dtype) for name, (dtype, *shape) in _shapes(task).items()
        }
        self._arrays["positions"][:] = -1
        self._miss_tokens: list[IntArray] = [np.empty(0, np.int64)]

    def note(self, step: int, layer: int, output: LayerOutput) -> None:
        """Take in one layer of one step. Raises ContractError where its arrays do not fit the task."""
        self._require_output(step, layer, output)
        at, num_entries = (step, layer), output.positions.size
        self._arrays["positions"][at][:num_entries] = output.positions
        self._arrays["digests"][at][:num_entries] = digests(output.rows)
        self._arrays["attention"][at] = output.attention
        self._arrays["misses"][at] = output.miss_tokens.size
        self._miss_tokens.append(output.miss_tokens)

    def note_written(self, layer: int, rows: ByteArray) -> None:
        """Take in the new rows of a layer as the memory holds them. Raises ContractError where they are of another shape."""
        task = self._task
        self._require(f"layer {layer}", "read_back", rows, "uint8", (task.num_steps, task.kv_layout.row_bytes))
        self._arrays["written"][:, layer] = digests(rows)

    def finished(self, wrong_canaries: list[int]) -> Answer:
        """The whole answer."""
        miss_tokens = np.concatenate(self._miss_tokens)
        return Answer(**self._arrays, miss_tokens=miss_tokens, wrong_canaries=np.array(wrong_canaries, np.int64))

    def _require_output(self, step: int, layer: int, output: LayerOutput) -> None:
        task, where = self._task, f"step {step}, layer {layer}"
        num_entries = min(task.top_k, task.context_tokens + step + 1)
        self._require(where, "positions", output.positions, "int64", (num_entries,))
        self._require(where, "rows", output.rows, "uint8", (num_entries, task.kv_layout.row_bytes))
        self._require(where, "attention", output.attention, "float32", (task.num_heads, task.kv_layout.latent))
        self._require(where, "miss_tokens", output.miss_tokens, "int64", (np.size(output.miss_tokens),))

    def _require(self, where: str, name: str, array: Any, dtype: str, shape: tuple[int, ...]) -> None:
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
            kind = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ContractError(
                f"runtime '{self._runtime}': {name} of {where} is {kind}; it must be {dtype} of shape {shape}"
            )


def digests(rows: ByteArray) -> ByteArray:
    """blake2b of each row. rows: (n, row_bytes) uint8. Returns (n, DIGEST_BYTES) uint8."""
    joined = b"".join(hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest() for row in np.ascontiguousarray(rows))
    return np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)


def _shapes(task: Task) -> Mapping[str, Any]:
    """dtype and shape of the arrays whose shape follows from the task alone."""
    steps = (task.num_steps, task.num_layers)
    return {
        "positions": ("int32", *steps, task.top_k),
        "digests": ("uint8", *steps, task.top_k, DIGEST_BYTES),
        "attention": ("float32", *steps, task.num_heads, task.kv_layout.latent),
        "written": ("uint8", *steps, DIGEST_BYTES),
        "misses": ("int32", *steps),
    }

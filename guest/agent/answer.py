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


class AnswerDraft:
    """An answer that fills as the messages of a FETCH come. Its methods raise MessageError where one does not fit the task."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._arrays: dict[str, Array] = {
            name: np.zeros(shape, dtype) for name, (dtype, *shape) in _shapes(task).items()
        }
        self._arrays["positions"][:] = -1
        self._miss_tokens: list[IntArray] = [np.empty(0, np.int64)]

    def note(self, step: int, layer: int, message: Message) -> None:
        """Take in the OUTPUT of one layer of one step; its rows are hashed here and not on the host."""
        task, at = self._task, (step, layer)
        num_entries = min(task.top_k, task.context_tokens + step + 1)
        rows = message.array("rows", "uint8", num_entries, task.kv_layout.row_bytes)
        misses = message.array("miss_tokens", "int64", _length(message, "miss_tokens"))
        self._arrays["positions"][at][:num_entries] = message.array("positions", "int64", num_entries)
        self._arrays["digests"][at][:num_entries] = digests(rows)
        self._arrays["attention"][at] = message.array("attention", "float32", task.num_heads, task.kv_layout.latent)
        self._arrays["misses"][at] = misses.size
        self._miss_tokens.append(misses)

    def note_written(self, layer: int, message: Message) -> None:
        """Take in the WRITTEN of one layer: its new rows as the memory holds them."""
        rows = message.array("rows", "uint8", self._task.num_steps, self._task.kv_layout.row_bytes)
        self._arrays["written"][:, layer] = digests(rows)

    def finished(self, message: Message) -> Answer:
        """The whole answer, with the ANSWER that ends it."""
        wrong_canaries = message.array("wrong_canaries", "int64", _length(message, "wrong_canaries"))
        return Answer(**self._arrays, miss_tokens=np.concatenate(self._miss_tokens), wrong_canaries=wrong_canaries)


def output_message(task: Task, runtime: str, step: int, layer: int, output: LayerOutput) -> Message:
    """One layer of one step as it travels. runtime: whose it is. Raises ContractError where an array does not fit the task."""
    where = f"runtime '{runtime}': {{}} of step {step}, layer {layer}"
    num_entries = min(task.top_k, task.context_tokens + step + 1)
    _require(where, "positions", output.positions, "int64", (num_entries,))
    _require(where, "rows", output.rows, "uint8", (num_entries, task.kv_layout.row_bytes))
    _require(where, "attention", output.attention, "float32", (task.num_heads, task.kv_layout.latent))
    _require(where, "miss_tokens", output.miss_tokens, "int64", (np.size(output.miss_tokens),))
    return Message(Kind.OUTPUT, arrays={field.name: getattr(output, field.name) for field in fields(output)})


def written_message(task: Task, runtime: str, layer: int, rows: ByteArray) -> Message:
    """The new rows of a layer as they travel. Raises ContractError where they are of another shape."""
    shape = (task.num_steps, task.kv_layout.row_bytes)
    _require(f"runtime '{runtime}': {{}} of layer {layer}", "read_back", rows, "uint8", shape)
    return Message(Kind.WRITTEN, arrays={"rows": rows})


def digests(rows: ByteArray) -> ByteArray:
    """blake2b of each row. rows: (n, row_bytes) uint8. Returns (n, DIGEST_BYTES) uint8."""
    joined = b"".join(hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest() for row in np.ascontiguousarray(rows))
    return np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)


def _require(where: str, name: str, array: Any, dtype: str, shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        kind = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ContractError(f"{where.format(name)} is {kind}; it must be {dtype} of shape {shape}")


def _length(message: Message, name: str) -> int:
    """How many entries the array `name` has, 0 where it is missing: its length follows from nothing."""
    return message.arrays[name].size if name in message.arrays else 0


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

"""The messages between the testbed and the agent on a host, over stdin and stdout, the same in both directions.

A message is a prefix, a head and a body; numbers are little-endian:

    prefix  4 bytes "CXLA", uint16 version, uint16 kind, uint32 bytes of the head, uint64 bytes of the body
    head    JSON: {"fields": {...}, "arrays": [[name, dtype, shape], ...]}
    body    the arrays' bytes one after another, in the head's order and C order, without gaps

Whoever reads trusts nothing of it: what does not fit is a MessageError that says what, and memory is taken only for bytes that
came. A stream ends between two messages or it is cut off. Knows kinds and arrays; knows no task and no runtime.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from guest.agent.errors import MessageError

MAGIC = b"CXLA"
VERSION = 2
PREFIX = struct.Struct("<4sHHIQ")
MOST_HEAD_BYTES = 1 << 20
MOST_BODY_BYTES = 1 << 32
MOST_DIMENSIONS = 4
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in ("uint8", "int32", "int64", "float32")}
PIECE_BYTES = 1 << 20
FIRST_ROOM_BYTES = 16 << 20  # a layer of 16K tokens and more

Array = NDArray[Any]


class Kind(IntEnum):
    """What a message is. To the agent: OPEN to CLOSE, of which ROWS and QUERY follow another and get no answer of their own."""

    OPEN = 1  # fields: runtime (name), task (fields of Task); answered by DONE
    POPULATE = 2  # arrays: tokens (T,) int64; as many ROWS as layers follow; answered by DONE
    ROWS = 3  # arrays: rows (T, row_bytes) uint8
    FLIP = 4  # fields: layer, token, byte; arrays: tokens (T,) int64; answered by DONE
    FETCH = 5  # arrays: tokens (T,) int64; a QUERY for each step and layer follows; answered by OUTPUTs, WRITTENs and ANSWER
    QUERY = 6  # arrays: scores (T + step + 1,) float32, query (H, D + R) float32, row (row_bytes,) uint8
    CLOSE = 7  # answered by DONE
    DONE = 8
    ANSWER = 9  # after the last WRITTEN; arrays: wrong_canaries (n,) int64
    OUTPUT = 10  # one per QUERY, in order; arrays: positions (n,) int64, rows (n, row_bytes) uint8, attention (H, D) float32,
    #              miss_tokens (m,) int64
    WRITTEN = 11  # one per layer, after the last OUTPUT; arrays: rows (S, row_bytes) uint8


@dataclass(frozen=True, eq=False)
class Message:
    """One message. fields: what JSON can say; arrays: by name, in the order in which they travel."""

    kind: Kind
    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)

    def array(self, name: str, dtype: str, *shape: int) -> Array:
        """The array `name`. Raises MessageError where it is missing or of another dtype or shape."""
        array = self.arrays.get(name)
        if array is None:
            raise MessageError(f"message {self.kind.name}: has no array '{name}'")
        if array.dtype != DTYPES[dtype] or array.shape != shape:
            raise MessageError(
                f"message {self.kind.name}: array '{name}' is {array.dtype} of shape {array.shape}; "
                f"it must be {dtype} of shape {shape}"
            )
        return array

    def number(self, name: str, limit: int) -> int:
        """The field `name`, a whole number in [0, limit). Raises MessageError."""
        value = self.fields.get(name)
        if type(value) is not int or not 0 <= value < limit:
            raise MessageError(
                f"message {self.kind.name}: {name}={value!r} must be a whole number from 0 to {limit - 1}"
            )
        return value


class Source(Protocol):
    """A stream of bytes to read: a file, a pipe, a channel. read: at most `size` bytes, none at the stream's end."""

    def read(self, size: int, /) -> bytes | bytearray: ...


class Sink(Protocol):
    """A stream of bytes to write."""

    def write(self, piece: bytes | memoryview, /) -> object: ...
    def flush(self) -> object: ...


def write_message(sink: Sink, message: Message) -> None:
    """Send one message. Raises MessageError for one that nobody could read; OSError where the other side is gone."""
    arrays = message.arrays
    specs = [[name, _dtype_name(message.kind, name, array), list(array.shape)] for name, array in arrays.items()]
    head = json.dumps({"fields": message.fields, "arrays": specs}).encode()
    body_bytes = sum(array.nbytes for array in arrays.values())
    if len(head) > MOST_HEAD_BYTES or body_bytes > MOST_BODY_BYTES:
        raise MessageError(
            f"message {message.kind.name}: {len(head)} bytes of head and {body_bytes} of body exceed "
            f"{MOST_HEAD_BYTES} and {MOST_BODY_BYTES}"
        )
    sink.write(PREFIX.pack(MAGIC, VERSION, message.kind, len(head), body_bytes) + head)
    for array in arrays.values():
        sink.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    sink.flush()


def read_message(source: Source) -> Message | None:
    """The next message, or None where the stream has ended. Raises MessageError for whatever is no message."""
    raw_prefix = _read(source, PREFIX.size)
    if not raw_prefix:
        return None
    kind, head_bytes, body_bytes = _parse_prefix(_whole(raw_prefix, PREFIX.size, "prefix"))
    fields, specs = _parse_head(kind, _whole(_read(source, head_bytes), head_bytes, "head"))
    sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in specs.values()]
    if sum(sizes) != body_bytes:
        raise MessageError(f"message {kind.name}: announces {body_bytes} bytes of body, its arrays take {sum(sizes)}")
    arrays = {
        name: _read_array(source, size, name).view(dtype).reshape(shape)
        for (name, (dtype, shape)), size in zip(specs.items(), sizes, strict=True)
    }
    return Message(kind, fields, arrays)


def _read_array(source: Source, size: int, name: str) -> NDArray[np.uint8]:
    """(size,) uint8 as they come. Room is taken in few and large steps, each once the one before is full: growing from piece to
    piece would fault every page in anew, which under emulation takes longer than the copy."""
    raw, filled = np.empty(min(size, FIRST_ROOM_BYTES), np.uint8), 0
    while filled < size and (piece := source.read(min(size - filled, PIECE_BYTES))):
        if filled + len(piece) > raw.size:
            wider = np.empty(min(size, 4 * raw.size), np.uint8)
            wider[:filled] = raw[:filled]
            raw = wider
        raw[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
    if filled < size:
        raise MessageError(f"message: the stream ends {size - filled} bytes too early, within the array '{name}'")
    return raw


def _read(source: Source, size: int) -> bytearray:
    """Up to `size` bytes; fewer where the stream ends."""
    raw = bytearray()
    while len(raw) < size and (piece := source.read(min(size - len(raw), PIECE_BYTES))):
        raw += piece
    return raw


def _whole(raw: bytearray, size: int, part: str) -> bytearray:
    if len(raw) < size:
        raise MessageError(f"message: the stream ends {size - len(raw)} bytes too early, within the {part}")
    return raw


def _parse_prefix(raw: bytearray) -> tuple[Kind, int, int]:
    """Kind, bytes of the head, bytes of the body."""
    magic, version, number, head_bytes, body_bytes = PREFIX.unpack(raw)
    if magic != MAGIC:
        raise MessageError(f"message: begins with {magic!r}, not with {MAGIC!r}; something else writes to this stream")
    if version != VERSION:
        raise MessageError(f"message: version={version} is not {VERSION}; testbed and agent must be of one version")
    if number not in [*Kind]:
        raise MessageError(f"message: kind={number} is none of {', '.join(str(int(kind)) for kind in Kind)}")
    if head_bytes > MOST_HEAD_BYTES or body_bytes > MOST_BODY_BYTES:
        raise MessageError(
            f"message {Kind(number).name}: announces {head_bytes} bytes of head and {body_bytes} of body; "
            f"at most {MOST_HEAD_BYTES} and {MOST_BODY_BYTES} may come"
        )
    return Kind(number), head_bytes, body_bytes


def _dtype_name(kind: Kind, name: str, array: Array) -> str:
    for dtype_name, dtype in DTYPES.items():
        if array.dtype == dtype:
            return dtype_name
    raise MessageError(f"message {kind.name}: array '{name}' is {array.dtype}; it must be {', '.join(DTYPES)}")


def _parse_head(kind: Kind, raw: bytearray) -> tuple[dict[str, Any], dict[str, tuple[np.dtype[Any], tuple[int, ...]]]]:
    try:
        head = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"message {kind.name}: its head is no JSON ({error})") from error
    if (
        not isinstance(head, dict)
        or not isinstance(head.get("fields"), dict)
        or not isinstance(head.get("arrays"), list)
    ):
        raise MessageError(f"message {kind.name}: its head must be an object with 'fields' and 'arrays'")
    specs = [_parse_array(kind, spec) for spec in head["arrays"]]
    by_name = {name: (dtype, shape) for name, dtype, shape in specs}
    if len(by_name) < len(specs):
        raise MessageError(f"message {kind.name}: two arrays have one name")
    return head["fields"], by_name


def _parse_array(kind: Kind, spec: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    match spec:
        case [str(name), str(dtype), [*shape]] if dtype in DTYPES and len(shape) <= MOST_DIMENSIONS:
            if all(type(size) is int and 0 <= size <= MOST_BODY_BYTES for size in shape):
                return name, DTYPES[dtype], tuple(shape)
    raise MessageError(
        f"message {kind.name}: an array must be [name, one of {'|'.join(DTYPES)}, shape of at most {MOST_DIMENSIONS} sizes], "
        f"not {json.dumps(spec)[:80]}"
    )

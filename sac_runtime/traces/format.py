"""Traces: the top-k token positions of every decode step, request and layer, and their file format.

Knows files and token positions; knows no model, no buffer and no time. numpy alone, so that a guest can read one.

A trace file, integers little-endian:

    8 bytes   magic "SACTRACE"
    u32       version, 2
    u32       size of the header in bytes
    u32       CRC-32 of the header
    header    JSON in UTF-8: num_layers, top_k, context_tokens (one number per request), source
    then one record per step:
        u32       size of the payload in bytes
        u32       CRC-32 of the payload
        payload   zlib of: counts, one u32 for each (request, layer), requests outermost; then the gaps of all of
                  them, each a u32, shuffled by bytes: all lowest bytes, all second bytes, all third, all highest
    and at the end a record of size 0 whose CRC field holds the number of steps: a file without one is torn. Nothing follows.

A set of positions p0 < p1 < ... has the gaps p0, p1 - p0 - 1, p2 - p1 - 1, ... A gap's high bytes are nearly always
zero and cost next to nothing; 2048 of 128K positions take about 1 byte per entry, close to the 0.93 of a uniform choice.

At step t request r holds `context_tokens[r] + t + 1` tokens, the newest (just written) included.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from sac_runtime.errors import TraceError

TokenSet = NDArray[np.int64]
"""(n,) token positions within a request, n <= top_k, strictly ascending."""

MAGIC = b"SACTRACE"
VERSION = 2

_PREFIX = struct.Struct("<8sIII")
_RECORD = struct.Struct("<II")
_COMPRESSION_LEVEL = 6
_MOST_PER_BYTE = 1040  # that zlib expands to: what claims more than this holds something else
_MOST_HEADER_BYTES = 1 << 20

MOST_LAYERS = 1 << 10  # a header beyond these is damaged: they are many times what models have
MOST_TOP_K = 1 << 16
MOST_CONTEXT_TOKENS = 1 << 24
MOST_SETS = 1 << 16  # requests x layers
MOST_TOKENS = 1 << 32  # context of all requests x layers: what a replay keeps a slot number for


@dataclass(frozen=True)
class TraceHeader:
    """What a trace is of. context_tokens: tokens of each request before step 0; source: how the trace came about.
    Raises TraceError for what is no number of its kind, or more than any model has."""

    num_layers: int
    top_k: int
    context_tokens: tuple[int, ...]
    source: str

    def __post_init__(self) -> None:
        for field, most in (("num_layers", MOST_LAYERS), ("top_k", MOST_TOP_K)):
            if not _is_count(value := getattr(self, field), 1, most):
                raise TraceError(f"trace header: {field}={_shown(value)} must be a whole number from 1 to {most}")
        lengths = self.context_tokens
        if type(lengths) is not tuple or not lengths:
            raise TraceError(
                f"trace header: context_tokens={_shown(lengths)} must be a tuple with a number of tokens for each request"
            )
        for request, length in enumerate(lengths):
            if not _is_count(length, 0, MOST_CONTEXT_TOKENS):
                raise TraceError(
                    f"trace header: context_tokens[{request}]={_shown(length)} must be a whole number up to "
                    f"{MOST_CONTEXT_TOKENS}"
                )
        if self.num_layers * len(lengths) > MOST_SETS or self.num_layers * sum(lengths) > MOST_TOKENS:
            raise TraceError(
                f"trace header: {len(lengths)} requests of {sum(lengths)} tokens in all, in num_layers={self.num_layers}, "
                f"exceed {MOST_SETS} requests x layers or {MOST_TOKENS} tokens x layers; write several traces"
            )
        if not isinstance(self.source, str):
            raise TraceError(f"trace header: source={_shown(self.source)} must be text")

    @property
    def num_requests(self) -> int:
        return len(self.context_tokens)

    def length(self, step_index: int, request: int = 0) -> int:
        """Number of tokens of `request` at a step, the newest included."""
        return self.context_tokens[request] + step_index + 1


@dataclass(frozen=True)
class TraceStep:
    """One decode step. topk[request][layer]: the positions that the layer attended to."""

    index: int
    topk: tuple[tuple[TokenSet, ...], ...]

    def tokens(self, layer: int, request: int = 0) -> TokenSet:
        return self.topk[request][layer]


class TraceWriter:
    """Writes a trace step by step; `close` (or leaving the context without an error) writes the end record.
    Raises TraceError for a path that cannot be written."""

    def __init__(self, path: Path | str, header: TraceHeader) -> None:
        self.header = header
        self.num_steps = 0
        self._path = Path(path)
        try:
            self._file: BinaryIO = self._path.open("wb")
        except OSError as exc:
            raise TraceError(f"{self._path}: cannot be written ({exc.strerror}); name a file that can") from exc
        encoded = json.dumps(asdict(header)).encode()
        self._file.write(_PREFIX.pack(MAGIC, VERSION, len(encoded), zlib.crc32(encoded)) + encoded)

    def write_step(self, topk: Iterable[Iterable[TokenSet]]) -> None:
        """Append a step. topk[request][layer]: TokenSet. Raises TraceError for a set that is no valid top-k."""
        try:
            sets = [[np.asarray(tokens) for tokens in layers] for layers in topk]
        except ValueError as exc:  # numpy's, for lists of unequal length
            raise TraceError(f"{self._path}: step {self.num_steps}: a set is no list of positions") from exc
        self._check(sets)
        payload = _encode([tokens for layers in sets for tokens in layers])
        self._file.write(_RECORD.pack(len(payload), zlib.crc32(payload)) + payload)
        self.num_steps += 1

    def close(self, complete: bool = True) -> None:
        """End the file; without its end record, so that it is refused, if the run is not complete. Twice does nothing."""
        if not self._file.closed:
            if complete:
                self._file.write(_RECORD.pack(0, self.num_steps))
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close(complete=kind is None)

    def _check(self, sets: list[list[TokenSet]]) -> None:
        where = f"{self._path}: step {self.num_steps}"
        if len(sets) != self.header.num_requests or any(len(layers) != self.header.num_layers for layers in sets):
            shape = [len(layers) for layers in sets]
            raise TraceError(
                f"{where}: layers per request={shape} must be {[self.header.num_layers] * self.header.num_requests}"
            )
        for request, layers in enumerate(sets):
            length = self.header.length(self.num_steps, request)
            for layer, tokens in enumerate(layers):
                _check_set(f"{where}, request {request}, layer {layer}", tokens, self.header.top_k, length)


class TraceReader:
    """A trace in a file: `header`, and its steps by iteration (again and again, one step in memory at a time).

    Raises TraceError for a file that cannot be read, is no trace, of another version, torn or damaged; the step is named.
    Memory follows the file's size, whatever its header and counts claim."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        with self._opened() as file:
            self.header = self._read_header(file)
            self._steps_offset = file.tell()

    def __iter__(self) -> Iterator[TraceStep]:
        with self._opened() as file:
            file.seek(self._steps_offset)
            index = 0
            while (payload := self._read_payload(file, index)) is not None:
                yield TraceStep(index, self._decode(payload, index))
                index += 1

    def _opened(self) -> BinaryIO:
        try:
            if not self._path.is_file():
                raise TraceError(f"{self._path}: is no file; name a recorded trace")
            return self._path.open("rb")
        except OSError as exc:
            raise TraceError(f"{self._path}: cannot be read ({exc.strerror}); name a file that can") from exc

    def _decode(self, payload: bytes, index: int) -> tuple[tuple[TokenSet, ...], ...]:
        where = f"{self._path}: step {index}"
        try:
            topk = _decode(payload, self.header)
        except (ValueError, zlib.error) as exc:
            raise TraceError(f"{where} is damaged ({exc}); record or generate it anew") from exc
        for request, layers in enumerate(topk):
            for layer, tokens in enumerate(layers):
                set_name = f"{where}, request {request}, layer {layer}"
                _check_set(set_name, tokens, self.header.top_k, self.header.length(index, request))
        return topk

    def _read_header(self, file: BinaryIO) -> TraceHeader:
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size or not prefix.startswith(MAGIC):
            raise TraceError(f"{self._path}: not a trace, the first bytes must be {MAGIC!r}")
        _, version, header_bytes, checksum = _PREFIX.unpack(prefix)
        if version != VERSION:
            raise TraceError(
                f"{self._path}: version={version}, this reader knows {VERSION}; record or generate it anew"
            )
        encoded = file.read(header_bytes) if header_bytes <= _MOST_HEADER_BYTES else b""
        if len(encoded) < header_bytes or zlib.crc32(encoded) != checksum:
            raise TraceError(f"{self._path}: damaged header (size or checksum); record or generate it anew")
        try:
            return _header_of(encoded)
        except TraceError as exc:
            raise TraceError(f"{self._path}: {exc}; record or generate it anew") from exc

    def _read_payload(self, file: BinaryIO, index: int) -> bytes | None:
        record = file.read(_RECORD.size)
        if len(record) < _RECORD.size:
            raise TraceError(f"{self._path}: ends after step {index - 1} without an end record; the writer was cut off")
        size_bytes, checksum = _RECORD.unpack(record)
        if size_bytes == 0:
            if checksum != index:
                raise TraceError(f"{self._path}: holds {index} steps, the end record says {checksum}")
            if file.read(1):
                raise TraceError(f"{self._path}: goes on after its end record; record or generate it anew")
            return None
        left_bytes = os.fstat(file.fileno()).st_size - file.tell()
        payload = file.read(min(size_bytes, left_bytes))
        if len(payload) < size_bytes or zlib.crc32(payload) != checksum:
            raise TraceError(f"{self._path}: step {index} is damaged (size or checksum); record or generate it anew")
        return payload


def write_trace(path: Path | str, header: TraceHeader, steps: Iterable[TraceStep]) -> int:
    """Write `steps` to a file, one at a time. Returns the number of steps."""
    with TraceWriter(path, header) as writer:
        for step in steps:
            writer.write_step(step.topk)
    return writer.num_steps


def _header_of(encoded: bytes) -> TraceHeader:
    names = [field.name for field in fields(TraceHeader)]
    try:
        found = json.loads(encoded)
    except (ValueError, RecursionError) as exc:
        raise TraceError("header is no JSON") from exc
    if type(found) is not dict or sorted(found) != sorted(names) or type(found["context_tokens"]) is not list:
        raise TraceError(f"header must be a JSON object with {', '.join(names)}")
    return TraceHeader(**{**found, "context_tokens": tuple(found["context_tokens"])})


def _is_count(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _shown(value: object) -> str:
    """A value in an error, of limited length."""
    text = ascii(value) if isinstance(value, int | float | str | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _check_set(where: str, tokens: TokenSet, top_k: int, length: int) -> None:
    if tokens.size and tokens.dtype.kind not in "iu":
        raise TraceError(f"{where}: positions are {tokens.dtype}; they must be integers")
    if tokens.ndim != 1 or len(tokens) > top_k:
        raise TraceError(f"{where}: shape={tokens.shape} must be (n,) with n at most top_k={top_k}")
    if len(tokens) and (tokens[0] < 0 or tokens[-1] >= length or (np.diff(tokens) <= 0).any()):
        raise TraceError(f"{where}: positions must ascend strictly within [0, {length}); sort and de-duplicate them")


def _encode(sets: list[TokenSet]) -> bytes:
    counts = np.array([len(tokens) for tokens in sets], dtype="<u4")
    gaps = np.concatenate([np.diff(tokens.astype(np.int64), prepend=-1) - 1 for tokens in sets]).astype("<u4")
    shuffled = gaps.view(np.uint8).reshape(-1, 4).T
    return zlib.compress(counts.tobytes() + shuffled.tobytes(), _COMPRESSION_LEVEL)


def _decode(payload: bytes, header: TraceHeader) -> tuple[tuple[TokenSet, ...], ...]:
    num_sets = header.num_requests * header.num_layers
    counts, gaps = _inflate(payload, num_sets, header.top_k)
    sets = [np.cumsum(part + 1) - 1 for part in np.split(gaps, np.cumsum(counts)[:-1])]
    return tuple(tuple(sets[start : start + header.num_layers]) for start in range(0, num_sets, header.num_layers))


def _inflate(payload: bytes, num_sets: int, top_k: int) -> tuple[TokenSet, TokenSet]:
    """Counts and gaps of a step. Unpacks no more than the counts ask for, and nothing that cannot be in the payload."""
    stream = zlib.decompressobj()
    raw = stream.decompress(payload, 4 * num_sets)
    counts = np.frombuffer(raw[: len(raw) // 4 * 4], "<u4").astype(np.int64)
    if len(counts) != num_sets:
        raise ValueError(f"counts of {len(counts)} sets, not of {num_sets}")
    if counts.max() > top_k:
        raise ValueError(f"a set of {counts.max()} positions, at most top_k={top_k}")
    num_bytes = 4 * int(counts.sum())
    if num_bytes > _MOST_PER_BYTE * len(payload):
        raise ValueError(f"{num_bytes} bytes of positions in {len(payload)}")
    shuffled = stream.decompress(stream.unconsumed_tail, num_bytes + 1)
    if len(shuffled) != num_bytes or not stream.eof or stream.unused_data:
        raise ValueError(f"{len(shuffled) // 4} positions, {num_bytes // 4} counted in {num_sets} sets")
    planes = np.frombuffer(shuffled, np.uint8).reshape(4, -1)
    return counts, np.ascontiguousarray(planes.T).view("<u4").ravel().astype(np.int64)

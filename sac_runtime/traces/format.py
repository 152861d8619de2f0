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
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class TraceHeader:
    """What a trace is of. context_tokens: tokens of each request before step 0; source: how the trace came about."""

    num_layers: int
    top_k: int
    context_tokens: tuple[int, ...]
    source: str

    def __post_init__(self) -> None:
        for field in ("num_layers", "top_k"):
            if not _is_count(getattr(self, field)) or getattr(self, field) < 1:
                raise TraceError(f"trace header: {field}={getattr(self, field)} must be a whole number, at least 1")
        if not self.context_tokens or not all(map(_is_count, self.context_tokens)):
            raise TraceError(
                f"trace header: context_tokens={self.context_tokens} must hold one number of tokens for each request"
            )

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
    """Writes a trace step by step; `close` (or leaving the context without an error) writes the end record."""

    def __init__(self, path: Path | str, header: TraceHeader) -> None:
        self.header = header
        self.num_steps = 0
        self._path = Path(path)
        self._file: BinaryIO = self._path.open("wb")
        encoded = json.dumps(asdict(header)).encode()
        self._file.write(_PREFIX.pack(MAGIC, VERSION, len(encoded), zlib.crc32(encoded)) + encoded)

    def write_step(self, topk: Iterable[Iterable[TokenSet]]) -> None:
        """Append a step. topk[request][layer]: TokenSet. Raises TraceError for a set that is no valid top-k."""
        sets = [[np.asarray(tokens) for tokens in layers] for layers in topk]
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

    Raises TraceError for a file that is no trace, of another version, torn or damaged; the step is named."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        with self._path.open("rb") as file:
            self.header = self._read_header(file)
            self._steps_offset = file.tell()

    def __iter__(self) -> Iterator[TraceStep]:
        with self._path.open("rb") as file:
            file.seek(self._steps_offset)
            index = 0
            while (payload := self._read_payload(file, index)) is not None:
                yield TraceStep(index, self._decode(payload, index))
                index += 1

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
        encoded = file.read(header_bytes)
        if zlib.crc32(encoded) != checksum:
            raise TraceError(f"{self._path}: damaged header (checksum); record or generate it anew")
        try:
            fields = json.loads(encoded)
            return TraceHeader(**{**fields, "context_tokens": tuple(fields["context_tokens"])})
        except (ValueError, KeyError, TypeError) as exc:
            raise TraceError(f"{self._path}: damaged header ({exc}); record or generate it anew") from exc

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
        payload = file.read(size_bytes)
        if len(payload) < size_bytes or zlib.crc32(payload) != checksum:
            raise TraceError(f"{self._path}: step {index} is damaged (size or checksum); record or generate it anew")
        return payload


def write_trace(path: Path | str, header: TraceHeader, steps: Iterable[TraceStep]) -> int:
    """Write `steps` to a file, one at a time. Returns the number of steps."""
    with TraceWriter(path, header) as writer:
        for step in steps:
            writer.write_step(step.topk)
    return writer.num_steps


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


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
    raw = np.frombuffer(zlib.decompress(payload), dtype=np.uint8)
    num_sets = header.num_requests * header.num_layers
    counts = raw[: 4 * num_sets].view("<u4").astype(np.int64)
    shuffled = raw[4 * num_sets :].reshape(4, -1)
    gaps = np.ascontiguousarray(shuffled.T).view("<u4").ravel().astype(np.int64)
    if len(counts) != num_sets or counts.sum() != len(gaps):
        raise ValueError(f"{len(gaps)} positions, {counts.sum()} counted in {len(counts)} of {num_sets} sets")
    sets = [np.cumsum(part + 1) - 1 for part in np.split(gaps, np.cumsum(counts)[:-1])]
    return tuple(tuple(sets[start : start + header.num_layers]) for start in range(0, num_sets, header.num_layers))

"""Top-k traces from tables: CSV and npz files with step, layer and rows, as people dump them from their own models.

Knows files, numpy and token positions; knows no model and no buffer. The formats stand in docs/topk-traces.md. A table is read
whole and checked whole; what a trace file's header says (layers, top-k, context) follows from the table where it does not say it.

`open_trace` tells a file's format by its first bytes: a trace file, npz, or else CSV."""

import csv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sac_runtime.errors import TraceError
from sac_runtime.rows.layout import IntArray
from sac_runtime.traces.format import MAGIC, TokenSet, TraceHeader, TraceReader, TraceStep

MOST_BYTES = 1 << 30  # of a table, unpacked
_ZIP_MAGIC = b"PK"
_NO_ROW = -1  # fills the places of an npz table's row that holds fewer than k positions
_COLUMNS = ("step", "layer", "rows", "request")
_SETTINGS = ("context_tokens", "top_k")


class Trace(Protocol):
    """What a trace is to those who replay it."""

    @property
    def header(self) -> TraceHeader: ...

    def __iter__(self) -> Iterator[TraceStep]: ...


@dataclass(frozen=True)
class TableTrace:
    """A trace that was read from a table."""

    header: TraceHeader
    steps: tuple[TraceStep, ...]

    def __iter__(self) -> Iterator[TraceStep]:
        return iter(self.steps)


class _Line(NamedTuple):
    """One set of the table, and where it stands."""

    where: str
    step: int
    request: int
    layer: int
    rows: TokenSet


def open_trace(path: Path | str) -> Trace:
    """The trace in a file: a trace file, or a table in npz or CSV. Raises TraceError for what is none of them."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise TraceError(f"trace {path}: is a device or a pipe; name a file that can be read")
        with path.open("rb") as file:
            first = file.read(len(MAGIC))
        if first == MAGIC:
            return TraceReader(path)
        return read_npz(path) if first.startswith(_ZIP_MAGIC) else read_csv(path)
    except OSError as exc:
        raise TraceError(f"trace {path}: {exc.strerror or exc}; name a file that can be read") from exc


def read_csv(path: Path) -> TableTrace:
    """The trace of a CSV table: columns step, layer, rows, and request if there are several; in `rows` positions with blanks
    between them. Lines of `# name=value` before the head say context_tokens and top_k. Raises TraceError."""
    if path.stat().st_size > MOST_BYTES:
        raise TraceError(f"trace {path}: {path.stat().st_size} bytes, more than {MOST_BYTES}; split it, or write npz")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise TraceError(f"trace {path}: {exc}; a table is npz, or CSV in UTF-8 with step, layer, rows") from exc
    numbered = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    settings = dict(_setting(path, number, line) for number, line in numbered if line.startswith("#") and "=" in line)
    table = [(number, line) for number, line in numbered if not line.startswith("#")]
    if not table:
        raise TraceError(f"trace {path}: holds no table; CSV begins with the head step,layer,rows")
    columns = _columns(path, [word.strip() for word in next(csv.reader([table[0][1]]))])
    lines = [_csv_line(f"trace {path}, line {number}", columns, line) for number, line in table[1:]]
    return _trace(path, lines, settings)


def read_npz(path: Path) -> TableTrace:
    """The trace of an npz file: step (n,), layer (n,) and rows (n, k) integers, -1 where a set holds fewer than k; or rows (m,) one
    after the other with counts (n,). Also request (n,), context_tokens (requests,), top_k. Raises TraceError."""
    arrays = _arrays(path)
    where = f"trace {path}"
    step, layer = (_vector(where, arrays, name) for name in ("step", "layer"))
    request = _vector(where, arrays, "request") if "request" in arrays else np.zeros_like(step)
    rows = _row_sets(where, arrays, len(step))
    for name, array in (("layer", layer), ("request", request)):
        if len(array) != len(step):
            raise TraceError(
                f"{where}: {name} has {len(array)} entries, step has {len(step)}; one of each per set of rows"
            )
    lines = [
        _Line(
            f"{where}, set {number}", int(step[number]), int(request[number]), int(layer[number]), np.sort(rows[number])
        )
        for number in range(len(step))
    ]
    settings = {name: _numbers(where, arrays, name) for name in _SETTINGS if name in arrays}
    return _trace(path, lines, settings)


def _trace(path: Path, lines: Sequence[_Line], settings: Mapping[str, tuple[int, ...]]) -> TableTrace:
    """Put the sets in order, and check that none is missing, twice or out of bounds."""
    if not lines:
        raise TraceError(f"trace {path}: holds no set of rows; give one per step, request and layer")
    sets: dict[tuple[int, int, int], TokenSet] = {}
    for line in lines:
        _check_line(line, sets)
        sets[line.step, line.request, line.layer] = line.rows
    shape = tuple(1 + max(key[axis] for key in sets) for axis in range(3))
    if len(sets) != np.prod([float(size) for size in shape]):
        step, request, layer = _first_missing(shape, sets)
        raise TraceError(
            f"trace {path}: step {step}, request {request}, layer {layer} is missing among {len(sets)} sets of "
            f"{shape[0]} steps, {shape[1]} requests and {shape[2]} layers; give each once, counted from 0"
        )
    header = _header(path, shape, sets, settings)
    steps = tuple(
        TraceStep(step, tuple(tuple(sets[step, one, layer] for layer in range(shape[2])) for one in range(shape[1])))
        for step in range(shape[0])
    )
    return TableTrace(header, steps)


def _check_line(line: _Line, sets: Mapping[tuple[int, int, int], TokenSet]) -> None:
    for name in ("step", "request", "layer"):
        if getattr(line, name) < 0:
            raise TraceError(f"{line.where}: {name}={getattr(line, name)} must be at least 0")
    if (line.step, line.request, line.layer) in sets:
        raise TraceError(
            f"{line.where}: step {line.step}, request {line.request}, layer {line.layer} stands there twice"
        )
    rows = line.rows
    if rows.size and rows[0] < 0:
        raise TraceError(f"{line.where}: rows={int(rows[0])} must be at least 0")
    if rows.size and (np.diff(rows) == 0).any():
        twice = int(rows[:-1][np.diff(rows) == 0][0])
        raise TraceError(f"{line.where}: rows={twice} stands there twice; a top-k holds each position once")


def _first_missing(shape: Sequence[int], sets: Mapping[tuple[int, int, int], TokenSet]) -> tuple[int, int, int]:
    """The first place without a set; no more places than sets are looked at, and one."""
    places = ((s, r, l) for s in range(shape[0]) for r in range(shape[1]) for l in range(shape[2]))  # noqa: E741
    return next(place for place in places if place not in sets)


def _header(
    path: Path,
    shape: Sequence[int],
    sets: Mapping[tuple[int, int, int], TokenSet],
    settings: Mapping[str, tuple[int, ...]],
) -> TraceHeader:
    """What the table says, or else what it needs: the shortest contexts and the least k that hold its sets."""
    needed_k = max(1, max(len(rows) for rows in sets.values()))
    needed = [0] * shape[1]
    for (step, request, _), rows in sets.items():
        if rows.size:
            needed[request] = max(needed[request], int(rows[-1]) - step)
    (top_k,) = settings.get("top_k", (needed_k,))
    contexts = settings.get("context_tokens", tuple(needed))
    if len(contexts) == 1:
        contexts = contexts * shape[1]
    if len(contexts) != shape[1]:
        raise TraceError(
            f"trace {path}: context_tokens has {len(contexts)} numbers for {shape[1]} requests; give one each"
        )
    if top_k < needed_k:
        raise TraceError(f"trace {path}: top_k={top_k} is below the {needed_k} rows of a set")
    for request, (context, least) in enumerate(zip(contexts, needed, strict=True)):
        if context < least:
            raise TraceError(
                f"trace {path}: context_tokens={context} of request {request}, whose rows need at least {least}"
            )
    known = "as given" if "context_tokens" in settings else "the shortest that holds the rows"
    return TraceHeader(shape[2], top_k, tuple(contexts), f"table {path.name}; context {known}")


def _columns(path: Path, head: Sequence[str]) -> dict[str, int]:
    columns = {name: place for place, name in enumerate(head)}
    missing = [name for name in _COLUMNS[:3] if name not in columns]
    if missing or len(columns) < len(head):
        raise TraceError(
            f"trace {path}: head={','.join(head)[:200]!r} lacks {', '.join(missing) or 'distinct names'}; it must hold step, "
            f"layer and rows, and may hold request. Known files: a trace (magic {MAGIC!r}), npz, CSV"
        )
    return columns


def _csv_line(where: str, columns: Mapping[str, int], line: str) -> _Line:
    try:
        cells = next(csv.reader([line], strict=True))
    except csv.Error as exc:
        raise TraceError(f"{where}: {exc}; quote cells as CSV does") from exc
    if len(cells) != len(columns):
        raise TraceError(
            f"{where}: {len(cells)} cells, the head has {len(columns)}; put blanks, not commas, between rows"
        )
    number = {
        name: _whole(where, name, cells[columns[name]]) for name in _COLUMNS if name != "rows" and name in columns
    }
    rows = np.array([_whole(where, "rows", word) for word in cells[columns["rows"]].split()], dtype=np.int64)
    return _Line(where, number["step"], number.get("request", 0), number["layer"], np.sort(rows))


def _whole(where: str, name: str, text: str) -> int:
    word = text.strip()
    if not (word.isascii() and word.removeprefix("-").isdigit() and len(word) < 19):
        raise TraceError(f"{where}: {name}={word[:80]!r} must be a whole number of at least 0")
    return int(word)


def _setting(path: Path, number: int, line: str) -> tuple[str, tuple[int, ...]]:
    where = f"trace {path}, line {number}"
    name, _, words = line.lstrip("# ").partition("=")
    if name.strip() not in _SETTINGS:
        raise TraceError(f"{where}: {name.strip()[:80]!r} is an unknown setting; known are {', '.join(_SETTINGS)}")
    values = tuple(_whole(where, name.strip(), word) for word in words.split())
    if not values or (name.strip() == "top_k" and len(values) != 1):
        raise TraceError(
            f"{where}: {name.strip()}={words.strip()[:80]!r} must be a number, of contexts one per request"
        )
    return name.strip(), values


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays of an npz file, none of them pickled."""
    known = (*_COLUMNS, "counts", *_SETTINGS)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > MOST_BYTES:
                raise TraceError(f"trace {path}: {unpacked} bytes unpacked, more than {MOST_BYTES}; split it")
            members = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
        arrays = {
            name: np.load(BytesIO(content), allow_pickle=False) for name, content in members.items() if name in known
        }
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as exc:
        raise TraceError(f"trace {path}: is no npz file that can be read ({exc}); write it with numpy.savez") from exc
    missing = [name for name in _COLUMNS[:3] if name not in arrays]
    if missing:
        raise TraceError(
            f"trace {path}: npz with {', '.join(members) or 'nothing'} lacks {', '.join(missing)}; it must hold step, layer "
            "and rows"
        )
    return arrays


def _vector(where: str, arrays: Mapping[str, Any], name: str) -> IntArray:
    array = np.asarray(arrays[name])
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TraceError(f"{where}: {name} has shape {array.shape} of {array.dtype}; it must be (n,) integers")
    return array.astype(np.int64)


def _numbers(where: str, arrays: Mapping[str, Any], name: str) -> tuple[int, ...]:
    array = np.atleast_1d(arrays[name])
    values = tuple(map(int, _vector(where, {name: array}, name)))
    if not values or min(values) < 0 or (name == "top_k" and len(values) != 1):
        raise TraceError(f"{where}: {name}={values} must be at least 0, of contexts one per request")
    return values


def _row_sets(where: str, arrays: Mapping[str, Any], num_sets: int) -> list[TokenSet]:
    rows = np.asarray(arrays["rows"])
    if rows.dtype.kind not in "iu":
        raise TraceError(f"{where}: rows are {rows.dtype}; they must be integers")
    if rows.ndim == 2:
        if len(rows) != num_sets:
            raise TraceError(
                f"{where}: rows has {len(rows)} sets, step has {num_sets} entries; one of each per set of rows"
            )
        return [row[row != _NO_ROW].astype(np.int64) for row in rows]
    if rows.ndim != 1 or "counts" not in arrays:
        raise TraceError(f"{where}: rows has shape {rows.shape}; it must be (n, k), or (m,) with counts (n,)")
    counts = _vector(where, arrays, "counts")
    if len(counts) != num_sets or (counts < 0).any() or counts.sum() != len(rows):
        raise TraceError(
            f"{where}: counts has {len(counts)} entries of {int(counts.sum())} rows in all; there are {num_sets} sets of "
            f"{len(rows)} rows"
        )
    return [part.astype(np.int64) for part in np.split(rows, np.cumsum(counts)[:-1])]

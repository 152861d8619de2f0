"""The comparison of a worker's answers with the truth. Knows hashes and numbers; knows no beds."""

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emulation.conformance.exchange import Exchange, SharedMemory
from sac_runtime.label import Label
from sac_runtime.rows.layout import IntArray

# fp32 sums over 2048 entries in another order than the reference's fp64; outputs are means of values of size 1.
ATTENTION_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Result:
    """What was found for one context. fetched_*: what the reader's misses moved; lines: cache lines that they touched;
    entries: rows as attention saw them, over all steps and layers; mismatches: sentences, empty if all is right."""

    place: SharedMemory
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


def check(share: Exchange, reply: bytes) -> Result:
    """Compare what a reader replied with the truth."""
    with np.load(io.BytesIO(reply)) as archive:
        found = dict(archive)
    layout = share.context.shape.layout
    wrong = [f"layer {layer}: its canary is not where the reader looks" for layer in found["wrong_canaries"].tolist()]
    wrong += [sentence for at in np.ndindex(found["misses"].shape) for sentence in _mismatches(share, found, *at)]
    right = [_entries_right(share, found, *at) for at in np.ndindex(found["misses"].shape)]
    errors = [_attention_error(share, found, *at) for at in np.ndindex(found["misses"].shape)]
    rows = int(found["misses"].sum())
    return Result(
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


def _entries_right(share: Exchange, found: dict[str, Any], step: int, layer: int) -> NDArray[np.bool_]:
    """Which of the entries that the step must choose were attended to with the bytes that were written."""
    chosen = share.context.topk[step].tokens(layer)
    same_place = found["positions"][step, layer][: len(chosen)] == chosen
    same_bytes = (found["digests"][step, layer][: len(chosen)] == share.digests[layer][chosen]).all(axis=1)
    right: NDArray[np.bool_] = same_place & same_bytes
    return right


def _attention_error(share: Exchange, found: dict[str, Any], step: int, layer: int) -> float:
    """Largest deviation of an output; infinite where one is no number."""
    error = np.abs(found["attention"][step, layer] - share.attention[layer][step]).max()
    return float(error) if np.isfinite(error) else float("inf")


def _mismatches(share: Exchange, found: dict[str, Any], step: int, layer: int) -> Iterator[str]:
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

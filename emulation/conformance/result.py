"""The comparison of a reader's answer with the truth, and the record of a run. Knows hashes and numbers; knows no beds.

A result here is about bytes and is labelled `functional`: it claims no time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emulation.conformance.exchange import Exchange, SharedMemory
from emulation.latency.replayed import TierReplay
from emulation.latency.setting import FetchSetting
from guest.agent.answer import Answer
from sac_runtime.label import Label
from sac_runtime.rows.layout import IntArray

# fp32 sums over 2048 entries in another order than the reference's fp64; outputs are means of values of size 1.
ATTENTION_TOLERANCE = 1e-4


@dataclass(frozen=True)
class StoreRecord:
    """What was found for one context, as `cxlbed run --json` writes it. misses: by step and layer; attention_error: None
    where an output is no number; the rest as Result."""

    place: SharedMemory
    fetched_rows: int
    fetched_bytes: int
    fetched_lines: int
    entries: int
    entries_right: int
    attention_error: float | None
    mismatches: list[str]
    misses: list[list[int]]
    label: Label


@dataclass(frozen=True)
class RunResult:
    """A whole run. right: no store has a mismatch; ready_s: seconds until the bed was up, no figure of any memory;
    relative_latency: the fetches replayed on every tier, modelled; setting: what those times are of."""

    topology: str
    accelerator: str
    ready_s: float | None
    right: bool
    stores: list[StoreRecord]
    setting: FetchSetting
    relative_latency: list[TierReplay]


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
    misses: NDArray[np.int32] = field(repr=False)
    miss_tokens: IntArray = field(repr=False)
    label: Label = Label.FUNCTIONAL

    def record(self) -> StoreRecord:
        """For --json."""
        plain = {name: value for name, value in vars(self).items() if name != "miss_tokens"}
        plain["misses"] = self.misses.tolist()
        if not np.isfinite(self.attention_error):
            plain["attention_error"] = None  # JSON has no inf
        return StoreRecord(**plain)


def check(exchange: Exchange, answer: Answer) -> Result:
    """Compare what a reader answered with the truth."""
    layout = exchange.context.shape.layout
    places = list(np.ndindex(answer.misses.shape))
    mismatches = [
        f"layer {layer}: its canary is not where the reader looks" for layer in answer.wrong_canaries.tolist()
    ]
    mismatches += [sentence for at in places for sentence in _mismatches(exchange, answer, *at)]
    right = [_entries_right(exchange, answer, *at) for at in places]
    rows = int(answer.misses.sum())
    return Result(
        place=exchange.place,
        fetched_rows=rows,
        fetched_bytes=rows * layout.row_bytes,
        fetched_lines=rows * layout.lines_per_row,
        entries=sum(map(len, right)),
        entries_right=sum(int(each.sum()) for each in right),
        attention_error=max(_attention_error(exchange, answer, *at) for at in places),
        mismatches=mismatches,
        misses=answer.misses,
        miss_tokens=answer.miss_tokens,
    )


def _entries_right(exchange: Exchange, answer: Answer, step: int, layer: int) -> NDArray[np.bool_]:
    """Which of the entries that the step must choose were attended to with the bytes that were written."""
    chosen = exchange.context.topk[step].tokens(layer)
    same_place = answer.positions[step, layer][: len(chosen)] == chosen
    same_bytes = (answer.digests[step, layer][: len(chosen)] == exchange.digests[layer][chosen]).all(axis=1)
    right: NDArray[np.bool_] = same_place & same_bytes
    return right


def _attention_error(exchange: Exchange, answer: Answer, step: int, layer: int) -> float:
    """Largest deviation of an output; infinite where one is no number."""
    error = np.abs(answer.attention[step, layer] - exchange.attention[layer][step]).max()
    return float(error) if np.isfinite(error) else float("inf")


def _mismatches(exchange: Exchange, answer: Answer, step: int, layer: int) -> Iterator[str]:
    where = f"step {step}, layer {layer}"
    chosen = exchange.context.topk[step].tokens(layer)
    for row in chosen[~_entries_right(exchange, answer, step, layer)].tolist():
        yield f"{where}, row {row}: not chosen, or its bytes are not those that were written"
    error = _attention_error(exchange, answer, step, layer)
    if error > ATTENTION_TOLERANCE:
        yield f"{where}: attention is off by {error:.3g} (allowed: {ATTENTION_TOLERANCE:g})"
    newest = exchange.context.shape.context_tokens + step
    if not np.array_equal(answer.written[step, layer], exchange.digests[layer][newest]):
        yield f"{where}, row {newest}: was not written back as it is"

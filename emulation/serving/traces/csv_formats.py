"""Traces as tables: Azure's and BurstGPT's CSV. Knows their columns; no files, no engine.

Sources: AzurePublicDataset, LLM inference traces 2023 and 2024 (CC BY 4.0); BurstGPT 1.1, as aiperf 0.13 reads it."""

import csv
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from emulation.serving.traces.entry import MOST_MS, MOST_TOKENS, Entry
from emulation.serving.traces.source import TraceText, shown

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURSTGPT_COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
_DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def azure_entries(text: TraceText) -> Iterator[Entry]:
    """TIMESTAMP (a date with its time), ContextTokens, GeneratedTokens."""
    return _entries(text, AZURE_COLUMNS, _date_ms)


def burstgpt_entries(text: TraceText) -> Iterator[Entry]:
    """Timestamp (s), Request tokens, Response tokens (0: the request failed)."""
    return _entries(text, BURSTGPT_COLUMNS, _seconds_ms)


def columns_of(line: str) -> tuple[str, ...]:
    """Names of a table's columns; none where the line is no row."""
    try:
        return tuple(name.strip() for name in next(csv.reader([line], strict=True), ()))
    except csv.Error:
        return ()


def _entries(text: TraceText, columns: tuple[str, ...], to_ms: Callable[[str], float | None]) -> Iterator[Entry]:
    rows = _rows(text)
    place, head = next(rows)
    names = tuple(name.strip() for name in head)
    twice = next((name for name in names if name in columns and names.count(name) > 1), None)
    if twice is not None:
        raise text.refusal(place, f"column {twice} stands twice; keep one")
    at = tuple(names.index(name) for name in columns)
    for line, row in rows:
        if len(row) != len(names):
            raise text.refusal(line, f"{len(row)} values for {len(names)} columns; mend or remove it")
        when, context, generated = (row[place].strip() for place in at)
        arrival_ms = to_ms(when)
        if arrival_ms is None:
            raise text.refusal(line, f"{columns[0]}={shown(when)} must be a time, as the format has it")
        prompt_len = _count(text, line, columns[1], context, 1)
        yield Entry(line, arrival_ms, prompt_len, _count(text, line, columns[2], generated, 0))


def _rows(text: TraceText) -> Iterator[tuple[int, list[str]]]:
    for line, words in text.lines():
        try:
            yield line, next(csv.reader([words.rstrip("\r")], strict=True))
        except csv.Error as exc:
            raise text.refusal(line, "is no row of a table; mend or remove it") from exc


def _count(text: TraceText, line: int, column: str, word: str, least: int) -> int:
    value = int(word) if word.isascii() and word.isdigit() and len(word) < 20 else -1
    if not least <= value <= MOST_TOKENS:
        raise text.refusal(line, f"{column}={shown(word)} must be a whole number from {least} to {MOST_TOKENS}")
    return value


def _date_ms(word: str) -> float | None:
    """ms of a date since 1970; without a zone it counts as UTC, as only differences matter."""
    try:
        date = datetime.fromisoformat(word)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1e3
    except (ValueError, OverflowError):
        return None


def _seconds_ms(word: str) -> float | None:
    if not _DECIMAL.fullmatch(word):  # float() takes digits of any script, 1_0 and nan
        return None
    milliseconds = float(word) * 1e3
    return milliseconds if 0 <= milliseconds <= MOST_MS else None

"""The formats that are known, and which of them a file is of, by its content. Knows each format's reader; reads nothing itself."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from emulation.errors import InputError
from emulation.serving.traces.csv_formats import (
    AZURE_COLUMNS,
    BURSTGPT_COLUMNS,
    azure_entries,
    burstgpt_entries,
    columns_of,
)
from emulation.serving.traces.entry import Entry
from emulation.serving.traces.json_formats import (
    BAILIAN_BLOCK_TOKENS,
    TOKEN_BLOCK_TOKENS,
    bailian_entries,
    mooncake_entries,
    servingsim_entries,
)
from emulation.serving.traces.sharegpt import CHARACTERS_PER_TOKEN, TURNS_NAMES, sharegpt_entries
from emulation.serving.traces.source import TraceText, shown

MOONCAKE_BLOCK_TOKENS = 512

Reader = Callable[[TraceText], Iterable[Entry | None]]


@dataclass(frozen=True)
class TraceFormat:
    """One format. looks: what its files look like, in words; entries: its reader, None for what is no request; block_tokens: of
    one hash id, unless the lines say otherwise; characters_per_token: where lengths are assumed from text."""

    name: str
    looks: str
    entries: Reader
    block_tokens: int | None = None
    characters_per_token: int | None = None


MOONCAKE = TraceFormat(
    "mooncake",
    "JSON lines with timestamp, input_length, output_length, hash_ids; session_id and delay for sessions",
    mooncake_entries,
    MOONCAKE_BLOCK_TOKENS,
)
BAILIAN = TraceFormat(
    "bailian", "the same with chat_id, and timestamp in seconds", bailian_entries, BAILIAN_BLOCK_TOKENS
)
SERVINGSIM = TraceFormat(
    "llmservingsim",
    "JSON lines with input_toks, output_toks, arrival_time_ns",
    servingsim_entries,
    TOKEN_BLOCK_TOKENS,
)
SHAREGPT = TraceFormat(
    "sharegpt",
    "a JSON array of objects with conversations",
    sharegpt_entries,
    characters_per_token=CHARACTERS_PER_TOKEN,
)
AZURE = TraceFormat("azure", f"CSV with {','.join(AZURE_COLUMNS)}", azure_entries)
BURSTGPT = TraceFormat("burstgpt", f"CSV with {','.join(BURSTGPT_COLUMNS)}", burstgpt_entries)
FORMATS = (MOONCAKE, BAILIAN, SERVINGSIM, SHAREGPT, AZURE, BURSTGPT)

_BY_KEYS = (  # the first whose keys a JSON object has any of
    (SERVINGSIM, {"input_toks", "output_toks", "arrival_time_ns"}),
    (BAILIAN, {"chat_id", "parent_chat_id"}),
    (MOONCAKE, {"timestamp", "input_length", "output_length", "hash_ids", "session_id", "text_input", "messages", "payload"}),
)  # fmt: skip


def format_of(text: TraceText) -> TraceFormat:
    """The format of a trace. Raises InputError, naming those that are known, for another; and for a file without any line."""
    place, line = next(text.lines(), (0, ""))
    if not line:
        raise InputError(f"trace {text.path}: holds no request; {_known()}")
    found = _of_line(text, place, line.strip())
    if found is None:
        raise text.refusal(place, f"{shown(line)} begins no trace that is known; {_known()}")
    return found


def _of_line(text: TraceText, place: int, line: str) -> TraceFormat | None:
    if line[0] == "{":
        keys = text.decode(place, line).keys()
        return next((each for each, names in _BY_KEYS if names & keys), None)
    if line[0] == "[":
        return SHAREGPT if any(f'"{name}"' in text.text for name in TURNS_NAMES) else None
    columns = set(columns_of(line))
    return next((each for each in (AZURE, BURSTGPT) if columns >= set(_COLUMNS[each.name])), None)


def _known() -> str:
    return "known are " + "; ".join(f"{each.name} ({each.looks})" for each in FORMATS)


_COLUMNS = {"azure": AZURE_COLUMNS, "burstgpt": BURSTGPT_COLUMNS}

"""Traces of one JSON object per line: Mooncake's and aiperf's, Bailian's, LLMServingSim's. Knows their fields; no files, no engine.

Sources: Mooncake, FAST'25 release; aiperf 0.13 (`MooncakeTrace`, `BailianTrace`), both Apache-2.0; LLMServingSim's README."""

from collections.abc import Iterator

from emulation.serving.traces.entry import Entry
from emulation.serving.traces.source import JsonObject, TraceText

PER_S, PER_MS, PER_NS = 1e-3, 1.0, 1e6  # of a field's units per ms
BAILIAN_BLOCK_TOKENS = 16
TOKEN_BLOCK_TOKENS = 16  # of blocks that we name by their tokens; vLLM's default
_TEXT_FIELDS = ("text_input", "messages", "payload")


def mooncake_entries(text: TraceText) -> Iterator[Entry]:
    """timestamp (ms), input_length, output_length, hash_ids; session_id and delay (ms) where turns follow one another."""
    for line, fields in text.json_lines():
        if "input_length" not in fields:
            _refuse_text(text, line, fields)
        entry = Entry(
            line,
            text.time(line, fields, "timestamp"),
            text.tokens(line, fields, "input_length"),
            None if fields.get("output_length") is None else text.tokens(line, fields, "output_length", 0),
            text.hash_ids(line, fields),
        )
        if "session_id" in fields or "delay" in fields:
            delay_ms = text.time(line, fields, "delay") or 0.0
            entry = entry._replace(session=text.session(line, fields, "session_id"), delay_ms=delay_ms)
        yield entry


def bailian_entries(text: TraceText) -> Iterator[Entry]:
    """As Mooncake's, timestamp in s. Turns have whole prompts and times of their own: each line is a request by itself."""
    for line, fields in text.json_lines():
        yield Entry(
            line,
            text.time(line, fields, "timestamp", PER_S),
            text.tokens(line, fields, "input_length"),
            text.tokens(line, fields, "output_length", 0),
            text.hash_ids(line, fields),
        )


def servingsim_entries(text: TraceText) -> Iterator[Entry]:
    """input_toks, output_toks, arrival_time_ns; input_tok_ids, of which blocks are named."""
    names = BlockNames(TOKEN_BLOCK_TOKENS)
    for line, fields in text.json_lines():
        if "sub_requests" in fields:
            raise text.refusal(line, "sub_requests are not read; give one line per request")
        prompt_len = text.tokens(line, fields, "input_toks")
        tokens = text.hash_ids(line, fields, "input_tok_ids")
        if tokens is not None and len(tokens) != prompt_len:
            raise text.refusal(
                line, f"input_tok_ids: {len(tokens)} tokens, but input_toks={prompt_len}; make them equal"
            )
        yield Entry(
            line,
            text.time(line, fields, "arrival_time_ns", PER_NS),
            prompt_len,
            text.tokens(line, fields, "output_toks", 0),
            None if tokens is None else names.of(tokens),
        )


class BlockNames:
    """Numbers for blocks of tokens: equal numbers for equal prefixes, as a prefix cache has them."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._numbers: dict[tuple[int, tuple[int, ...]], int] = {}

    def of(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The blocks of a prompt, the last one perhaps partly full."""
        numbers, parent = [], -1
        for first in range(0, len(tokens), self._block_tokens):
            block = parent, tokens[first : first + self._block_tokens]
            parent = self._numbers.setdefault(block, len(self._numbers))
            numbers.append(parent)
        return tuple(numbers)


def _refuse_text(text: TraceText, line: int, fields: JsonObject) -> None:
    for name in _TEXT_FIELDS:
        if name in fields:
            raise text.refusal(line, f"{name} holds text, whose length in tokens is not recorded; give input_length")

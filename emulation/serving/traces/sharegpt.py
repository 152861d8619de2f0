"""ShareGPT's conversations as requests. Knows their shape; no files, no tokenizer.

As sglang.bench_serving takes them: the first exchange of each conversation, one request. Lengths in tokens are assumed from
characters, since no tokenizer is at hand."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from emulation.serving.traces.entry import Entry
from emulation.serving.traces.source import TraceText, shown

CHARACTERS_PER_TOKEN = 4  # assumed: English prose, OpenAI's rule of thumb ("What are tokens and how to count them?")
TURNS_NAMES = ("conversations", "conversation")


def sharegpt_entries(text: TraceText) -> Iterator[Entry | None]:
    """An array of objects with `conversations`, each turn with its `value`; None for one without a reply."""
    by_element = replace(text, unit="conversation")
    for number, conversation in enumerate(_conversations(text), 1):
        turns = _turns(by_element, number, conversation)
        if len(turns) < 2:
            yield None
            continue
        prompt, reply = (_value(by_element, number, turn) for turn in turns[:2])
        yield Entry(number, None, num_tokens(prompt), num_tokens(reply) if reply else 0)


def num_tokens(words: str) -> int:
    """Tokens that a text is assumed to have; at least 1."""
    return max(1, round(len(words) / CHARACTERS_PER_TOKEN))


def _conversations(text: TraceText) -> list[Any]:
    place = next(number for number, _ in text.lines())
    found = text.decode(place, text.text)
    if type(found) is not list:
        raise text.refusal(place, "must be a JSON array of conversations")
    return found


def _turns(text: TraceText, number: int, conversation: Any) -> list[Any]:
    if type(conversation) is not dict:
        raise text.refusal(number, f"{shown(conversation)} is no JSON object; each element must be one")
    name = next((name for name in TURNS_NAMES if name in conversation), TURNS_NAMES[0])
    turns = conversation.get(name)
    if type(turns) is not list:
        raise text.refusal(number, f"{name}={shown(turns)} must be a list of turns")
    return turns


def _value(text: TraceText, number: int, turn: Any) -> str:
    value = turn.get("value") if type(turn) is dict else None
    if type(value) is not str:
        raise text.refusal(number, f"value={shown(value)} of a turn must be text")
    return value

"""How many tokens one hash id of a trace stands for. Knows lengths and numbers of ids.

A prompt of L tokens has ids for ceil(L / block) blocks, the last one perhaps partly full. So a line of n ids bounds the block size:
L / n <= block < L / (n - 1)."""

from collections.abc import Sequence

from emulation.serving.traces.entry import Entry
from emulation.serving.traces.source import TraceText

MOST_BLOCK_TOKENS = 1 << 16


def block_tokens_of(text: TraceText, entries: Sequence[Entry], usual: int, asked: int | None) -> int:
    """The block size that all lines fit: `asked`, else the format's `usual` one, else the only power of two. Lines without ids
    fit any. Raises InputError naming the first line that does not fit, and both its numbers."""
    wanted = asked or usual
    named = [entry for entry in entries if entry.hash_ids]
    wrong = next((entry for entry in named if len(entry.hash_ids or ()) != -(-entry.prompt_len // wanted)), None)
    if wrong is None:
        return wanted
    least, most = _bounds(named)
    fitting = [1 << bits for bits in range(17) if least <= 1 << bits <= most]
    if asked is None and len(fitting) == 1:
        return fitting[0]
    num_ids, num_blocks = len(wrong.hash_ids or ()), -(-wrong.prompt_len // wanted)
    raise text.refusal(
        wrong.place,
        f"hash_ids: {num_ids} ids for {wrong.prompt_len} tokens, which are {num_blocks} blocks of {wanted}; "
        f"mend the line, or give the trace's block size ({_fix(fitting)})",
    )


def _bounds(named: Sequence[Entry]) -> tuple[int, int]:
    """The least and the most tokens per id that all lines allow."""
    least, most = 1, MOST_BLOCK_TOKENS
    for entry in named:
        num_ids = len(entry.hash_ids or ())
        least = max(least, -(-entry.prompt_len // num_ids))
        if num_ids > 1:
            most = min(most, (entry.prompt_len - 1) // (num_ids - 1))
    return least, most


def _fix(fitting: list[int]) -> str:
    return f"all lines fit {', '.join(map(str, fitting))}" if fitting else "no power of two fits all lines"

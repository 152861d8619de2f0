"""What every format's reader makes of a line: one request, as recorded. Knows fields and their limits; no format, no file."""

from typing import NamedTuple

MOST_TOKENS = 1 << 24  # a hundred times what models take
MOST_HASH_ID = (1 << 64) - 1
MOST_MS = 1e14  # the year 5138: what lies above counts in other units


class Entry(NamedTuple):
    """One request of a trace. place: its line, or its number within the file; arrival_ms: by the trace's own clock, None: not
    recorded; output_len: None: not recorded, 0: a prefill alone; hash_ids: None: not recorded.

    session: turns of one session follow one another, each with the tokens of all before it; delay_ms: from the end of the turn
    before to this one."""

    place: int
    arrival_ms: float | None
    prompt_len: int
    output_len: int | None
    hash_ids: tuple[int, ...] | None = None
    session: str | int | None = None
    delay_ms: float = 0.0

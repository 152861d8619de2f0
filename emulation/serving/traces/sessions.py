"""Turns of a session: what each one's prompt is, and which of its blocks are known. Knows entries; no files, no engine.

As aiperf replays them: a turn's prompt is all that was said before, answers included, and its own text. So its prefix is found
where the turn before left it, up to the last full block of that turn's prompt; what was decoded is computed anew (assumed)."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, takewhile

from emulation.serving.traces.entry import Entry
from emulation.serving.workload import Request

NS_PER_MS = 1e6

Session = tuple[Entry, ...]


def sessions_of(entries: Sequence[Entry], block_tokens: int, context_tokens: int | None) -> Iterator[Session]:
    """Sessions in the file's order, their entries with whole prompts; a request by itself is a session of one.
    A session ends before the first turn above `context_tokens`."""
    if all(entry.session is None for entry in entries):
        yield from ((entry,) if _fits(entry, context_tokens) else () for entry in entries)
        return
    fresh = count(1 + max((max(entry.hash_ids) for entry in entries if entry.hash_ids), default=0))
    for turns in _grouped(entries):
        whole = turns if len(turns) == 1 else _whole_prompts(turns, block_tokens, fresh)
        yield tuple(takewhile(lambda turn: _fits(turn, context_tokens), whole))


def chained(session: Session, origin_ms: float) -> Request:
    """The first request of a session, the others hanging from it. Times in ns from `origin_ms` on."""
    following: Request | None = None
    for _, arrival_ms, prompt_len, output_len, hash_ids, _, delay_ms in reversed(session):
        arrival_ns = 0.0 if arrival_ms is None else (arrival_ms - origin_ms) * NS_PER_MS
        delay_ns = delay_ms * NS_PER_MS
        following = Request(arrival_ns, prompt_len, output_len or 1, hash_ids or (), False, following, delay_ns)
    assert following is not None
    return following


def _grouped(entries: Sequence[Entry]) -> Iterable[Session]:
    groups: dict[object, list[Entry]] = {}
    for number, entry in enumerate(entries):
        key = (number,) if entry.session is None else entry.session
        groups.setdefault(key, []).append(entry)
    return map(tuple, groups.values())


def _whole_prompts(turns: Session, block_tokens: int, fresh: Iterator[int]) -> Iterator[Entry]:
    known: tuple[int, ...] = ()
    history = 0
    for turn in turns:
        prompt_len = history + turn.prompt_len
        ids = known if history or not turn.hash_ids else turn.hash_ids
        missing = -(-prompt_len // block_tokens) - len(ids)
        ids += tuple(next(fresh) for _ in range(missing))
        yield turn._replace(prompt_len=prompt_len, hash_ids=ids)
        known = ids[: prompt_len // block_tokens]
        history = prompt_len + (turn.output_len or 0)


def _fits(turn: Entry, context_tokens: int | None) -> bool:
    return context_tokens is None or turn.prompt_len + (turn.output_len or 1) <= context_tokens

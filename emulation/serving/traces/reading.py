"""A trace's file to requests: its format, its rules, and what was made of what. Knows entries; no format's fields, no engine.

One meaning for each thing that traces do: times count from the first arrival; lines may stand in any order; an output of 0 tokens
is a prefill alone, which yields one; an output that is not recorded is the median of those that are; what exceeds the model's
context is left out, and a session ends there. All of it is counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

from emulation.errors import InputError
from emulation.serving.traces.block_size import MOST_BLOCK_TOKENS, block_tokens_of
from emulation.serving.traces.entry import Entry
from emulation.serving.traces.formats import MOONCAKE_BLOCK_TOKENS, format_of
from emulation.serving.traces.sessions import Session, chained, sessions_of
from emulation.serving.traces.source import TraceText
from emulation.serving.workload import Request

MOST_SPAN_MS = 3.2e11  # ten years


@dataclass(frozen=True)
class TraceCounts:
    """What a trace held, and what was made of it.

    entries: requests recorded; first_arrival_ms: by the trace's clock, 0 from here on, None: no times are recorded;
    out_of_order: lines that came before one above them; prefill_only: outputs of 0, taken as 1; assumed_outputs: outputs not
    recorded, taken as `assumed_output_tokens`; above_context: left out; no_request: elements that are none; no_hash_ids: requests
    whose prompts are taken as new; block_tokens: of one hash id, None without any; characters_per_token: of lengths assumed."""

    format: str
    entries: int
    sessions: int
    first_arrival_ms: float | None
    span_s: float | None
    out_of_order: int
    prefill_only: int
    assumed_outputs: int
    assumed_output_tokens: int | None
    above_context: int
    no_request: int
    no_hash_ids: int
    block_tokens: int | None
    characters_per_token: int | None


@dataclass(frozen=True)
class RequestTrace:
    """Requests by arrival; those of a session after its first hang from the one before. num_requests counts them all."""

    requests: tuple[Request, ...]
    num_requests: int
    block_tokens: int
    counts: TraceCounts

    @property
    def timed(self) -> bool:
        """Whether arrivals are recorded."""
        return self.counts.first_arrival_ms is not None


def read_trace(
    path: Path, block_tokens: int | None = None, output_tokens: int | None = None, context_tokens: int | None = None
) -> RequestTrace:
    """Read a trace of any known format. block_tokens: of one hash id, in place of the format's; output_tokens: of requests
    whose output is not recorded; context_tokens: the most that the model takes, None: no limit.

    Raises InputError for a file that is none of the formats, or a line that breaks its rules: with file, line, field, rule."""
    text = TraceText.read(path)
    form = format_of(text)
    if block_tokens is not None and not 1 <= block_tokens <= MOST_BLOCK_TOKENS:
        raise InputError(f"trace {path}: block_tokens={block_tokens} must lie in [1, {MOST_BLOCK_TOKENS}]")
    read = list(form.entries(text))
    recorded = [entry for entry in read if entry is not None]
    if not recorded:
        raise InputError(f"trace {path}: holds no request; give one of format {form.name} with requests in it")
    tokens_per_id = block_tokens_of(text, recorded, form.block_tokens or MOONCAKE_BLOCK_TOKENS, block_tokens)
    assumed_output = _assumed_output(path, recorded, output_tokens)
    entries = [
        entry if entry.output_len is not None else entry._replace(output_len=assumed_output) for entry in recorded
    ]
    sessions = list(sessions_of(entries, tokens_per_id, context_tokens))
    served = [session for session in sessions if session]
    if not served:
        raise InputError(
            f"trace {path}: no request fits context_tokens={context_tokens}; take a model with a longer context"
        )
    origin_ms, span_ms = _clock(text, served)
    counts = TraceCounts(
        format=form.name,
        entries=len(recorded),
        sessions=len(sessions),
        first_arrival_ms=origin_ms,
        span_s=None if span_ms is None else round(span_ms / 1e3, 6),
        out_of_order=_out_of_order(served),
        prefill_only=sum(entry.output_len == 0 for entry in entries),
        assumed_outputs=sum(entry.output_len is None for entry in recorded),
        assumed_output_tokens=assumed_output,
        above_context=len(recorded) - sum(map(len, sessions)),
        no_request=len(read) - len(recorded),
        no_hash_ids=sum(not entry.hash_ids for entry in recorded),
        block_tokens=tokens_per_id if any(entry.hash_ids for entry in recorded) else None,
        characters_per_token=form.characters_per_token,
    )
    requests = [chained(session, origin_ms or 0.0) for session in served]
    requests.sort(key=_arrival_ns)
    return RequestTrace(tuple(requests), sum(map(len, served)), tokens_per_id, counts)


def _assumed_output(path: Path, recorded: Sequence[Entry], output_tokens: int | None) -> int | None:
    """Output of the requests that have none recorded; None where all have."""
    outputs = [entry.output_len for entry in recorded if entry.output_len is not None]
    if len(outputs) == len(recorded):
        return None
    if output_tokens is None and not outputs:
        raise InputError(f"trace {path}: no line has an output length; give one for all")
    return output_tokens or median_low(outputs)


def _clock(text: TraceText, sessions: Sequence[Session]) -> tuple[float | None, float | None]:
    """The first arrival and the span to the last, in ms; None, None where no times are recorded.
    Raises InputError where some are and some are not, or the span cannot be of one clock."""
    arrivals = [session[0].arrival_ms for session in sessions]
    times = [time for time in arrivals if time is not None]
    if not times:
        return None, None
    if len(times) < len(arrivals):
        place = sessions[arrivals.index(None)][0].place
        raise text.refusal(place, "no time of arrival is recorded, but for others there is one; give all or none")
    later = [turn.arrival_ms for session in sessions if len(session) > 1 for turn in session[1:]]
    first, last = min(times), max(times + [time for time in later if time is not None])
    if last - first > MOST_SPAN_MS:
        place = sessions[arrivals.index(first)][0].place
        raise text.refusal(
            place,
            f"arrives {(last - first) / 3.156e10:.0f} years before the last; give times of one clock, in its unit",
        )
    return first, last - first


def _out_of_order(sessions: Sequence[Session]) -> int:
    """Arrivals that are earlier than one above them."""
    latest, number = 0.0, 0
    for session in sessions:
        arrival_ms = session[0].arrival_ms or 0.0
        number += arrival_ms < latest
        latest = max(latest, arrival_ms)
    return number


def _arrival_ns(request: Request) -> float:
    return request.arrival_ns

"""What a reader of a serving record should know of its figures, in words. Knows outcomes and workloads; runs nothing."""

from collections.abc import Iterator

from emulation.serving.cluster import Outcome
from emulation.serving.prefixes import has_reuse
from emulation.serving.replay import TraceReplay
from emulation.serving.traces.reading import TraceCounts
from emulation.serving.workload import Workload


def note_of(
    workload: Workload, round_number: int | None, running_limit: int, outcome: Outcome, outside_fit: bool
) -> str:
    """Remarks on one scenario, "" for none."""
    concurrency = workload.max_concurrency
    notes = []
    if concurrency and running_limit < concurrency:
        notes.append(f"only {running_limit} of {concurrency} fit at once; the others wait")
    if overload := outcome.overload():
        notes.append(overload.words())
    if outside_fit:
        notes.append("outside the fit")
    if round_number == 2 and not outcome.num_cached_tokens:
        notes.append("the prefixes do not fit the tier: all computed anew")
    if isinstance(workload, TraceReplay):
        notes += [*_trace_notes(workload.trace.counts), *_replay_notes(workload, outcome)]
    return "; ".join(notes)


def _trace_notes(counts: TraceCounts) -> Iterator[str]:
    if counts.above_context:
        yield f"{counts.above_context} of {counts.entries} requests exceed the model's context: left out"
    if counts.out_of_order:
        yield f"{counts.out_of_order} requests stood out of order: replayed by time"
    if counts.prefill_only:
        yield f"{counts.prefill_only} outputs of 0 tokens: prefill alone, which yields 1"
    if counts.assumed_outputs:
        yield f"{counts.assumed_outputs} outputs not recorded: {counts.assumed_output_tokens} tokens assumed"
    if counts.characters_per_token:
        yield f"lengths assumed: {counts.characters_per_token} characters per token"
    if counts.no_request:
        yield f"{counts.no_request} conversations without a reply: left out"


def _replay_notes(replay: TraceReplay, outcome: Outcome) -> Iterator[str]:
    if replay.num_loops > 1:
        yield f"the trace's {replay.trace.num_requests} requests are looped {replay.num_loops:.4g} times"
    if outcome.num_cached_tokens:
        return
    if replay.trace.counts.no_hash_ids == replay.trace.counts.entries:
        yield "the trace records no hash ids: no reuse"
    elif not has_reuse(replay.requests()):
        yield "the trace has no reuse"
    else:
        yield "the prefixes do not fit the tier: all computed anew"

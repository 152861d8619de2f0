"""Predicted beside observed: the observed requests served by the model, and each figure of theirs with its interval.
Knows observations, scenarios and records; draws no ratio, since the two came about differently."""

from collections.abc import Sequence
from dataclasses import dataclass

from emulation.errors import InputError
from emulation.serving.observed import Observed
from emulation.serving.records import ServingRecord
from emulation.serving.replay import TraceReplay
from emulation.serving.traces.formats import MOONCAKE_BLOCK_TOKENS
from emulation.serving.traces.reading import RequestTrace, TraceCounts
from emulation.serving.workload import Request
from emulation.timing.interval import Interval


@dataclass(frozen=True)
class FigureBeside:
    """One figure: as it was observed, as it is predicted (None: a request does not fit, or the run is overloaded), and whether the
    observed one lies within the predicted interval."""

    name: str
    observed: float
    predicted: Interval | None
    within: bool | None


@dataclass(frozen=True)
class TierBeside:
    """One tier's prediction beside the observation."""

    tier: str
    figures: list[FigureBeside]
    record: ServingRecord


@dataclass(frozen=True)
class ObservedRun:
    """What was observed, and of what; see `observed.Observed`."""

    file: str
    source: str
    run: int
    runs: int
    completed: int
    failed: int
    per_request: bool
    max_concurrency: int | None
    request_rate: float | None


@dataclass(frozen=True)
class ObservedDocument:
    """What `cxlbed serve --observe` writes."""

    observed: ObservedRun
    predictions: list[TierBeside]


def workload_of(observed: Observed, concurrency: int | None = None, seed: int = 0) -> TraceReplay:
    """The observed requests as a workload, prompts taken as new: as many in flight as were observed, or `concurrency`; at the
    observed rate; or all at once. Raises InputError for a concurrency of a run at a rate."""
    requests = tuple(Request(0.0, prompt, output) for prompt, output in observed.lengths)
    trace = RequestTrace(requests, len(requests), MOONCAKE_BLOCK_TOKENS, _counts(observed))
    in_flight = concurrency or observed.max_concurrency
    if observed.request_rate is None:
        return TraceReplay(trace, len(requests), max_concurrency=in_flight or len(requests))
    if in_flight is not None:
        raise InputError(
            f"observed: max_concurrency={in_flight} and request_rate={observed.request_rate} together are not modelled; observe a "
            "run with one of them"
        )
    return TraceReplay(trace, len(requests), request_rate=observed.request_rate, seed=seed)


def beside(observed: Observed, record: ServingRecord) -> TierBeside:
    """The figures that were observed, each beside the record's."""
    return TierBeside(record.tier, [_figure(name, value, record) for name, value in observed.figures.items()], record)


def run_of(observed: Observed, file: str) -> ObservedRun:
    """What was observed, for its document."""
    return ObservedRun(
        file=file,
        source=observed.source,
        run=observed.run,
        runs=observed.runs,
        completed=observed.completed,
        failed=observed.failed,
        per_request=observed.per_request,
        max_concurrency=observed.max_concurrency,
        request_rate=observed.request_rate,
    )


def num_within(figures: Sequence[FigureBeside]) -> tuple[int, int]:
    """How many of the predicted figures lie around the observed one, of how many."""
    told = [figure.within for figure in figures if figure.within is not None]
    return sum(told), len(told)


def _figure(name: str, value: float, record: ServingRecord) -> FigureBeside:
    interval = record.intervals.get(name)
    within = None if interval is None else interval.low <= value <= interval.high
    return FigureBeside(name, value, interval, within)


def _counts(observed: Observed) -> TraceCounts:
    return TraceCounts(
        format=observed.source,
        entries=observed.completed,
        sessions=0,
        first_arrival_ms=None,
        span_s=None,
        out_of_order=0,
        prefill_only=0,
        assumed_outputs=0,
        assumed_output_tokens=None,
        above_context=0,
        no_request=0,
        no_hash_ids=observed.completed,
        block_tokens=None,
        characters_per_token=None,
    )

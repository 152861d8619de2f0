"""Tables for `cxlbed serve --observe`: predicted beside observed. Knows records; runs nothing and draws no ratio."""

from rich.table import Table

from emulation.report.serving import setting_words
from emulation.report.tables import make_table
from emulation.report.wording import span_of
from emulation.serving.beside import ObservedRun, TierBeside, num_within


def beside_table(observed: ObservedRun, tier: TierBeside) -> Table:
    """One line per figure of a tier."""
    rows = [
        (
            figure.name,
            figure.observed,
            figure.predicted.value if figure.predicted else None,
            span_of(figure.predicted.low, figure.predicted.high) if figure.predicted else "-",
            {True: "within", False: "outside", None: "-"}[figure.within],
        )
        for figure in tier.figures
    ]
    within, told = num_within(tier.figures)
    caption = (
        f"observed: {observed.source}, run {observed.run} of {observed.runs}, {observed.completed} requests "
        f"({observed.failed} failed), {_arrivals(observed)}, {_detail(observed)}\n"
        f"predicted: modelled, prompts taken as new; {within} of {told} observed figures lie within what is known; no ratio is "
        f"drawn, as the two came about differently\n{setting_words([tier.record])}"
    )
    title = f"{observed.file} beside tier {tier.tier}"
    return make_table(title, ("figure", "observed", "predicted", "known", "observed lies"), rows, caption)


def _arrivals(observed: ObservedRun) -> str:
    if observed.max_concurrency:
        return f"{observed.max_concurrency} in flight"
    return f"{observed.request_rate:g} requests per second" if observed.request_rate else "all at once"


def _detail(observed: ObservedRun) -> str:
    return "each by itself" if observed.per_request else "its summary; all requests taken to be of the mean lengths"

"""How a number came about. Knows labels, and that a ratio is drawn between figures of one label alone."""

from enum import StrEnum

from sac_runtime.errors import LabelMixError


class Label(StrEnum):
    """Every reported number carries one of these."""

    FUNCTIONAL = "functional"  # bytes were checked, no time is claimed
    MODELLED = "modelled"  # time of a virtual clock
    INJECTED = "injected"  # wall clock with added stalls
    NUMA_MEASURED = "numa-measured"  # wall clock on a real remote NUMA node
    HARDWARE = "hardware"  # wall clock on a real CXL device


def require_one_label(*labels: Label) -> Label:
    """Return the label that all of `labels` share, for a figure derived from them.

    Raises LabelMixError where they differ, or where one claims no time (`functional`)."""
    distinct = sorted(set(labels))
    if len(distinct) != 1:
        raise LabelMixError(f"label: {' and '.join(distinct)} cannot meet in one ratio; compare numbers of one label")
    if distinct[0] is Label.FUNCTIONAL:
        raise LabelMixError("label: functional numbers claim no time; take a modelled, injected or measured one")
    return distinct[0]

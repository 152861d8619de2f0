"""Tables of models beside published figures. Knows points, laws and wording; runs no model."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from emulation.calibration.parameters import PARAMETERS, LeftOut
from emulation.calibration.readings import Point, summary
from emulation.report.tables import make_table
from emulation.report.wording import significant
from emulation.serving.spec import EngineCosts
from emulation.timing.misses import MissLaw


def points_table(title: str, points: Sequence[Point]) -> Table:
    """Each reading, the model's figure and its error; the caption has median and worst."""
    middle, worst = summary(points)
    rows = [(point.name, point.reading, point.model, f"{point.error:+.1%}") for point in points]
    return make_table(title, ("cell", "paper", "model", "error"), rows, f"median error {middle:.1%}, worst {worst:.1%}")


def laws_table(laws: Mapping[int, Sequence[MissLaw]], buffer_slots: int) -> Table:
    """Misses per layer and step by context length and law. laws: by context length, of the same instances each."""
    first = next(iter(laws.values()))
    rows = [
        (context, *(law.misses_per_step(buffer_slots) for law in of_context)) for context, of_context in laws.items()
    ]
    caption = "\n".join(f"{law.name}: {law.source}" for law in first)
    title = f"misses per layer and step at {buffer_slots} slots, by law"
    return make_table(title, ("context", *(law.name for law in first)), rows, caption)


def parameters_table(costs: EngineCosts, support: Mapping[str, Mapping[str, float]]) -> Table:
    """Each parameter, its value, unit and meaning, and the series that it rests on, with the share of each."""
    rows = [
        (
            parameter.name,
            significant(getattr(costs, parameter.name)),
            parameter.unit,
            parameter.meaning,
            ", ".join(f"{series} {share:.0%}" for series, share in support.get(parameter.name, {}).items()),
        )
        for parameter in PARAMETERS
    ]
    caption = "rests on: share of the information on the parameter, the others held, from 10%"
    return make_table(
        "parameters of the serving model", ("name", "value", "unit", "meaning", "rests on"), rows, caption
    )


def left_out_table(results: Sequence[LeftOut]) -> Table:
    """For each series: its errors, and those of its prediction by the other series alone."""
    rows = [
        (
            result.series,
            result.num_points,
            f"{result.median:.1%}",
            f"{result.worst:.1%}",
            f"{result.median_left_out:.1%}",
            f"{result.worst_left_out:.1%}",
            ", ".join(f"{name} {by:+.0%}" for name, by in result.moved.items()),
        )
        for result in results
    ]
    columns = ("series", "points", "median", "worst", "median, left out", "worst, left out", "parameters that move")
    return make_table("leave one series out", columns, rows, "left out: fitted to the other series alone (linear)")

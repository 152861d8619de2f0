"""Tables of models beside published figures. Knows points, laws and wording; runs no model."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from emulation.calibration.readings import Point, summary
from emulation.report.tables import make_table
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

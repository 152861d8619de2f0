"""Readings of published figures, and a model's figure beside each. Knows the CSV files in `data/`; knows no model."""

from collections.abc import Sequence
from csv import DictReader
from dataclasses import dataclass
from pathlib import Path
from statistics import median

DATA_FOLDER = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Point:
    """One reading beside the model's figure, in one unit."""

    name: str
    reading: float
    model: float

    @property
    def error(self) -> float:
        """(model - reading) / reading."""
        return self.model / self.reading - 1


def readings(name: str) -> list[dict[str, str]]:
    """Rows of the CSV file `name` in `data/`, by column; its comment lines are left out."""
    lines = (DATA_FOLDER / name).read_text().splitlines()
    return list(DictReader(line for line in lines if not line.startswith("#")))


def summary(points: Sequence[Point]) -> tuple[float, float]:
    """Median and worst of the absolute relative errors."""
    errors = [abs(point.error) for point in points]
    return median(errors), max(errors)

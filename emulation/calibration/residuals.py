"""The serving fit's residuals, as a file that comes with the package: what intervals are made of where nothing is simulated anew.
Knows points and the file; runs no model."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from emulation.calibration.readings import DATA_FOLDER, Point, readings
from emulation.files import write_whole
from emulation.serving.intervals import Residuals
from emulation.timing.interval import Residual

RESIDUALS_FILE = DATA_FOLDER / "residuals.csv"
_HEAD = (
    "# Errors of the serving model at the readings that it is fitted to, least and most by tier and kind of reading:\n"
    "# (model - reading) / reading, at least the 3% of reading a plot. Written by `cxlbed calibrate --residuals`.\n"
    "tier,metric,least,most,points\n"
)
Kind = tuple[str, str]


@cache
def shipped_residuals() -> Residuals:
    """Those of the file."""
    return Residuals(
        {
            (row["tier"], row["metric"]): Residual(float(row["least"]), float(row["most"]), int(row["points"]))
            for row in readings(RESIDUALS_FILE.name)
        }
    )


def residuals_of(points: Sequence[Point]) -> dict[Kind, Residual]:
    """By (tier, kind of reading); a point is named `tier context ... kind`, a mean's kind without `mean_`."""
    errors: dict[Kind, list[float]] = {}
    for point in points:
        tier, *_, metric = point.name.split()
        errors.setdefault((tier, metric.removeprefix("mean_")), []).append(point.error)
    return {kind: Residual.of(of_kind) for kind, of_kind in sorted(errors.items())}


def write_residuals(residuals: Mapping[Kind, Residual], path: Path = RESIDUALS_FILE) -> None:
    """Write the file that `shipped_residuals` reads."""
    rows = (
        f"{tier},{metric},{one.least:.4f},{one.most:.4f},{one.points}\n" for (tier, metric), one in residuals.items()
    )
    write_whole(path, _HEAD + "".join(rows))

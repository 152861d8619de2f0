"""`python -m emulation.serving.calibrate [--fit]`: each cell of Figures 3, 4, 5, 9 and 10 beside the model, and its error.

With --fit the parameters are fitted first, from the shipped ones, and printed."""

import sys
from collections.abc import Sequence

from emulation.calibration.fetch import FIG3_PROFILE, FIG5_PROFILES, Point, fig3_points, fig5_points, summary
from emulation.calibration.serving import fig4_points, fit_engine_costs, headline_points, serving_points
from emulation.report.tables import make_table, print_table
from emulation.serving.spec import EngineCosts
from emulation.timing.profile import load_profile


def main(arguments: Sequence[str]) -> int:
    """Print the tables; the tests hold the errors."""
    costs = fit_engine_costs() if "--fit" in arguments else EngineCosts()
    fig10 = serving_points(2, costs)
    print(costs)  # noqa: T201
    _show("SAC Fig 3: whole prefixes, mean s", fig3_points(load_profile(FIG3_PROFILE)))
    _show("SAC Fig 4: footprint, GB", fig4_points())
    _show("SAC Fig 5: n random entries, us", fig5_points({t: load_profile(name) for t, name in FIG5_PROFILES.items()}))
    _show("SAC Fig 9: round 1, concurrency 8", serving_points(1, costs))
    _show("SAC Fig 10: round 2, concurrency 64", fig10)
    _show("SAC's headline ratios", headline_points(fig10))
    return 0


def _show(title: str, points: list[Point]) -> None:
    middle, worst = summary(points)
    rows = [(point.name, point.reading, point.model, f"{point.error:+.1%}") for point in points]
    caption = f"median error {middle:.1%}, worst {worst:.1%}"
    print_table(make_table(title, ("cell", "paper", "model", "error"), rows, caption))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m emulation.timing.calibrate`: fit, print the error at each point, say whether the profile files agree."""

import sys

from rich.console import Console
from rich.table import Table

from emulation.calibration.fetch import Point, fig3_points, fig5_points, fit_gpu_fetch, fit_prefix, summary
from emulation.timing.profile import Profile, load_profile


def main() -> int:
    """Print both fits; 1 if a profile file holds other figures than the fit gives."""
    console = Console()
    gpu_fetch, prefix = fit_gpu_fetch(), fit_prefix()
    console.print(gpu_fetch, prefix)
    console.print(_table("Fig 5: n random entries, us", fig5_points(gpu_fetch.profiles())))
    console.print(_table("Fig 3: whole prefixes, mean s", fig3_points(prefix.profile())))
    fitted = [*gpu_fetch.profiles().values(), prefix.profile()]
    stale = [profile.name for profile in fitted if not agrees_with_file(profile)]
    console.print(f"profiles to update: {', '.join(stale)}" if stale else "profile files hold the fit")
    return 1 if stale else 0


def agrees_with_file(profile: Profile) -> bool:
    """Whether the shipped file of that name holds the same figures."""
    return profile == load_profile(profile.name)


def _table(title: str, points: list[Point]) -> Table:
    middle, worst = summary(points)
    table = Table("point", "paper", "model", "error", title=f"{title}; median {middle:.1%}, worst {worst:.1%}")
    for point in points:
        table.add_row(point.name, f"{point.reading:g}", f"{point.model:.4g}", f"{point.error:+.1%}")
    return table


if __name__ == "__main__":
    sys.exit(main())

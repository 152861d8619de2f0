"""`cxlbed calibrate`: every model beside the published figures that it is held to."""

from collections.abc import Sequence
from typing import Annotated

import typer

from emulation.calibration.fetch import (
    fig3_points,
    fig5_points,
    fit_gpu_fetch,
    fit_prefix,
    stale_profiles,
)
from emulation.calibration.parameters import fit_engine_costs, leave_one_out, parameter_support, sensitivities
from emulation.calibration.readings import Point
from emulation.calibration.residuals import RESIDUALS_FILE, residuals_of, write_residuals
from emulation.calibration.serving import FIG10, SERVING_FIGURES, fig4_points, headline_points, points
from emulation.cli.progress import progress
from emulation.latency.modelled import FIG3_CONTEXTS
from emulation.report.calibration import laws_table, left_out_table, parameters_table, points_table
from emulation.report.tables import print_table
from emulation.serving.spec import ClusterSpec, EngineCosts
from emulation.timing.misses import BufferLaw, ReuseLaw
from emulation.timing.profile import load_profile
from emulation.timing.tiers import FIG5_PROFILES, PREFIX_ENGINE
from sac_runtime.traces.synthetic import SyntheticSpec

FitOption = Annotated[
    bool, typer.Option("--fit", help="Fit the free parameters first (minutes); ends with 1 where files hold others.")
]
ResidualsOption = Annotated[
    bool, typer.Option("--residuals", help="Write the serving model's errors into the package, for intervals.")
]


def calibrate(fit: FitOption = False, residuals: ResidualsOption = False) -> None:
    """Show each model beside the figures of SAC (arXiv 2606.19746) that it is held to: point by point, with the error of each.
    Then the laws of hot-buffer misses beside one another, the serving model's parameters with what each rests on, and what
    becomes of each series when the fit is made without it."""
    costs, stale = _fitted() if fit else (EngineCosts(), [])
    profiles = {tier: load_profile(name) for tier, name in FIG5_PROFILES.items()}
    tables: list[tuple[str, Sequence[Point]]] = [
        ("SAC Fig 3: whole prefixes, mean s", fig3_points(load_profile(PREFIX_ENGINE))),
        ("SAC Fig 4: footprint, GB", fig4_points()),
        ("SAC Fig 5: n random entries, us", fig5_points(profiles)),
        *((figure.title, points(figure, costs)) for figure in SERVING_FIGURES),
        ("SAC's headline ratios", headline_points(points(FIG10, costs))),
    ]
    for title, beside in tables:
        print_table(points_table(title, beside))
    laws = {
        context: (BufferLaw.for_context(context), ReuseLaw(SyntheticSpec.published(context)))
        for context in FIG3_CONTEXTS
    }
    print_table(laws_table(laws, ClusterSpec("cxl").hot_buffer))
    if residuals:
        write_residuals(residuals_of([point for figure in SERVING_FIGURES for point in points(figure, costs)]))
        typer.echo(f"written: {RESIDUALS_FILE}")
    with progress() as say:
        say("what the parameters rest on: each figure again with each parameter a little larger")
        found = sensitivities(costs)
    print_table(parameters_table(costs, parameter_support(found)))
    print_table(left_out_table(leave_one_out(found)))
    if stale:
        raise typer.Exit(1)


def _fitted() -> tuple[EngineCosts, list[str]]:
    """The serving model's costs and the names of the profiles whose files hold other figures than the fit."""
    with progress() as say:
        say("fitting the fetch of entries and of prefixes (Fig 5, Fig 3)")
        gpu_fetch, prefix = fit_gpu_fetch(), fit_prefix()
        say("fitting the serving model (Fig 9, 10, 11, tails)")
        costs = fit_engine_costs(EngineCosts(), say)
    stale = stale_profiles([*gpu_fetch.profiles().values(), prefix.profile()])
    for words in (gpu_fetch, prefix, costs):
        typer.echo(words)
    typer.echo(f"profiles to update: {', '.join(stale)}" if stale else "profile files hold the fit")
    return costs, stale

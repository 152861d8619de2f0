"""The serving model's free parameters: what each means, which readings it rests on, and their fit. Knows sensitivities and
least squares; the runs are emulation.calibration.serving's.

The fit is damped Gauss-Newton on ln(model / reading), by ln of each parameter, with derivatives from runs at slightly other
values; a reading far off pulls no harder than one at HUBER. The same derivatives answer what would have been predicted had a
series been left out: the normal equations without it, solved once (exact for small changes)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emulation.calibration.serving import SERVING_FIGURES, Figure, ServingPoint, points
from emulation.say import Say
from emulation.serving.spec import EngineCosts

HUBER = 0.15  # only a reading far off, as round 1 of RDMA at 16K, pulls no harder
ROUND_1_WEIGHT = 0.5  # it only fills the pool
TAIL_WEIGHT = 0.3  # of a 99th percentile, of which less accuracy is asked
STEP = 0.04  # of ln of a parameter, for derivatives
RIDGE = 1e-3  # a parameter that no reading supports stays where it is
MOVED_TIERS = ("rdma",)
SPARSE_TIERS = ("dram", "cxl", "rdma")
ALL_TIERS = ("hbm", "dram", "cxl", "rdma")

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Parameter:
    """A field of EngineCosts: its unit, its meaning in a few words, and the tiers that it changes."""

    name: str
    unit: str
    meaning: str
    tiers: tuple[str, ...] = ALL_TIERS


PARAMETERS = (
    Parameter("step_base_ns", "ns", "a decode step: weights, experts, all-to-all"),
    Parameter("sparse_step_ns", "ns", "the sparse path's own part of a step, 61 layers", SPARSE_TIERS),
    Parameter("step_request_ns", "ns", "per request of the fullest GPU and step"),
    Parameter("step_context_token_ns", "ns", "per token of the fullest GPU's contexts and step (indexer)"),
    Parameter("step_longest_token_ns", "ns", "per token of the longest context and step (top-k selection)"),
    Parameter("step_spread", "1", "sigma of ln of a step's time", SPARSE_TIERS),
    Parameter("prefill_token_ns", "ns", "prefill per token, all GPUs at it", SPARSE_TIERS),
    Parameter("prefill_token_slope_ns", "ns", "prefill per token and token before it", SPARSE_TIERS),
    Parameter("tokenise_token_ns", "ns", "per token of the prompt, before a server hears of it"),
    Parameter("admission_ns", "ns", "per request: scheduling, page tables, last page's prefill"),
    Parameter("index_page_ns", "ns", "set-up of one copy of a layer's page of indexer keys", SPARSE_TIERS),
    Parameter("wait_spread", "1", "sigma of ln of a request's own waits", SPARSE_TIERS),
    Parameter("prefetch_request_ns", "ns", "per whole-prefix transfer", MOVED_TIERS),
    Parameter(
        "prefetch_ops_per_entry", "1", "work requests per KV entry of a prefix, one after the other", MOVED_TIERS
    ),
    Parameter("prefetch_hold", "1", "part of a transfer's time that decode stands still", MOVED_TIERS),
    Parameter("whole_hbm_share", "1", "part of the HBM for KV that whole requests fill", ("hbm",)),
)
_STEPPED_SERIES = "hbm round 2, over concurrency"
STEPPED = (
    "whole_hbm_share",
)  # it counts requests that fit, so it has no derivative: the middle of what the readings allow


@dataclass(frozen=True)
class Sensitivities:
    """Readings, ln(model / reading) at them, and its derivatives by ln of each fitted parameter."""

    points: Sequence[ServingPoint]
    residuals: Matrix  # (n,)
    derivatives: Matrix  # (n, p)
    weights: Matrix  # (n,)

    @property
    def series(self) -> list[str]:
        """The names of the series, in order."""
        return list(dict.fromkeys(point.series for point in self.points))

    def step(self, left_out: str | None = None) -> Matrix:
        """(p,) change of ln of each parameter that the readings ask for; without those of a series, if given."""
        kept = np.array([point.series != left_out for point in self.points])
        weights = self.weights * kept
        scaled = self.derivatives * weights[:, None]
        normal = scaled.T @ self.derivatives + RIDGE * np.eye(self.derivatives.shape[1])
        return np.linalg.solve(normal, -scaled.T @ self.residuals)


@dataclass(frozen=True)
class LeftOut:
    """What becomes of a series when the parameters are fitted without it: median and worst error, then and now.
    moved: the parameters that would be others by more than 5%, and by how much."""

    series: str
    num_points: int
    median: float
    worst: float
    median_left_out: float
    worst_left_out: float
    moved: dict[str, float]


def fitted_names() -> list[str]:
    """The parameters that the fit moves."""
    return [parameter.name for parameter in PARAMETERS if parameter.name not in STEPPED]


def sensitivities(costs: EngineCosts, figures: Sequence[Figure] = SERVING_FIGURES) -> Sensitivities:
    """Runs every cell at `costs`, and again with each parameter a little larger where it matters."""
    here = [point for figure in figures for point in points(figure, costs)]
    residuals = np.log([point.model / point.reading for point in here])
    columns = []
    for parameter in PARAMETERS:
        if parameter.name not in STEPPED:
            larger = replace(costs, **{parameter.name: getattr(costs, parameter.name) * np.exp(STEP)})
            there = {
                (point.cell, point.column): point.model
                for figure in figures
                for point in points(figure, larger, parameter.tiers)
            }
            moved_model = [there.get((point.cell, point.column), point.model) for point in here]
            columns.append(np.log([model / point.model for model, point in zip(moved_model, here, strict=True)]) / STEP)
    weights = np.array([_weight(point) for point in here]) * np.minimum(
        1.0, HUBER / np.maximum(np.abs(residuals), 1e-9)
    )
    return Sensitivities(here, residuals, np.array(columns).T, weights)


def fit_engine_costs(start: EngineCosts, say: Say = lambda _: None, num_rounds: int = 6) -> EngineCosts:
    """The parameters of the least weighted error, from `start`. A step that does not better it is halved."""
    best, least = start, _badness(start)
    for number in range(num_rounds):
        move = np.clip(sensitivities(best).step(), -0.3, 0.3)
        for share in (1.0, 0.5, 0.25):
            tried = moved(best, move * share)
            if (badness := _badness(tried)) < least - 1e-6:
                best, least = tried, badness
                break
        else:
            break
        say(f"round {number + 1}: mean weighted error {least:.4f}")
    return best


def moved(costs: EngineCosts, move: Matrix) -> EngineCosts:
    """`costs` with each fitted parameter times e^move, to four figures."""
    pairs = zip(fitted_names(), move, strict=True)
    return replace(costs, **{name: float(f"{getattr(costs, name) * np.exp(by):.4g}") for name, by in pairs})


def leave_one_out(found: Sensitivities) -> list[LeftOut]:
    """For each series: what the other series alone predict of it."""
    results = []
    whole = found.step()
    for series in found.series:
        ours = np.array([point.series == series for point in found.points])
        move = found.step(series) - whole
        now = np.abs(np.expm1(found.residuals[ours]))
        then = np.abs(np.expm1(found.residuals[ours] + found.derivatives[ours] @ move))
        shifts = {name: float(np.expm1(by)) for name, by in zip(fitted_names(), move, strict=True) if abs(by) > 0.05}
        results.append(
            LeftOut(
                series,
                int(ours.sum()),
                float(np.median(now)),
                float(now.max()),
                float(np.median(then)),
                float(then.max()),
                shifts,
            )
        )
    return results


def parameter_support(found: Sensitivities, least: float = 0.1) -> dict[str, dict[str, float]]:
    """For each parameter: the series that it rests on, by share of the information that readings have on it while the other
    parameters are held; those of at least `least`, the largest first."""
    support: dict[str, dict[str, float]] = {}
    names = np.array([point.series for point in found.points])
    for column, name in enumerate(fitted_names()):
        information = found.weights * found.derivatives[:, column] ** 2
        if not information.any():
            continue
        shares = {series: float(information[names == series].sum() / information.sum()) for series in found.series}
        largest = sorted(shares.items(), key=lambda each: -each[1])
        support[name] = {series: share for series, share in largest if share >= least}
    support |= {name: {_STEPPED_SERIES: 1.0} for name in STEPPED}
    return support


def _weight(point: ServingPoint) -> float:
    if point.column.startswith("p99_"):
        return TAIL_WEIGHT
    return ROUND_1_WEIGHT if point.cell.round_number == 1 else 1.0


def _badness(costs: EngineCosts) -> float:
    """Weighted mean of Huber's measure of the errors."""
    found = [point for figure in SERVING_FIGURES for point in points(figure, costs)]
    errors = np.abs(np.log([point.model / point.reading for point in found]))
    measure = np.where(errors < HUBER, errors**2 / 2 / HUBER, errors - HUBER / 2)
    return float(np.average(measure, weights=[_weight(point) for point in found]))

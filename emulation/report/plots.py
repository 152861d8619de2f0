"""Pictures: lines with bands, and bars. Knows matplotlib, which it loads only when it draws; nothing of what is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulation.errors import InputError
from emulation.timing.interval import Interval

FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Series:
    """One line. `low` and `high`, where given, bound a band around it. dots: readings, not joined."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dots: bool = False


@dataclass(frozen=True)
class Axes:
    """What the axes say and how they run."""

    title: str
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False


def band(name: str, x: Sequence[float], figures: Sequence[Interval]) -> Series:
    """A line through the values of intervals, with their range around it."""
    low, value, high = ([getattr(figure, part) for figure in figures] for part in ("low", "value", "high"))
    return Series(name, x, value, low, high)


def draw_lines(path: Path, axes: Axes, series: Sequence[Series], marks: Mapping[str, float] | None = None) -> None:
    """Draw series into `path` (.png, .svg or .pdf). marks: name -> x of a dashed vertical line.
    Raises InputError for another ending."""
    figure, plot = _figure(path)
    for number, one in enumerate(series):
        colour = f"C{number % 10}"
        if one.low is not None and one.high is not None:
            plot.fill_between(one.x, one.low, one.high, color=colour, alpha=0.15)
        line = "none" if one.dots else "-"
        plot.plot(one.x, one.y, color=colour, label=one.name, marker="o", markersize=4, linestyle=line)
    for name, x in (marks or {}).items():
        plot.axvline(x, linestyle="--", color="grey", linewidth=1)
        plot.annotate(name, (x, 0.02), xycoords=("data", "axes fraction"), rotation=90, fontsize=8, ha="right")
    if axes.log_x:
        plot.set_xscale("log", base=2)
        plot.xaxis.set_major_formatter("{x:,.0f}")
    if axes.log_y:
        plot.set_yscale("log")
    _finish(path, figure, plot, axes)


def draw_bars(path: Path, axes: Axes, groups: Sequence[str], series: Mapping[str, Sequence[float]]) -> None:
    """Draw bars into `path`: each group has one bar per series. series: name -> a value for each group."""
    figure, plot = _figure(path)
    width = 0.8 / max(1, len(series))
    for number, (name, values) in enumerate(series.items()):
        places = [group - 0.4 + width * (number + 0.5) for group in range(len(groups))]
        plot.bar(places, values, width, label=name)
    _name_groups(plot, groups)
    if axes.log_y:
        plot.set_yscale("log")
    _finish(path, figure, plot, axes)


def draw_stacks(path: Path, axes: Axes, groups: Sequence[str], series: Mapping[str, Sequence[float]]) -> None:
    """Draw one bar per group into `path`, the series stacked in it: parts of a whole. series: as in `draw_bars`."""
    figure, plot = _figure(path)
    reached = [0.0] * len(groups)
    for name, values in series.items():
        plot.bar(range(len(groups)), values, 0.8, bottom=reached, label=name)
        reached = [low + value for low, value in zip(reached, values, strict=True)]
    _name_groups(plot, groups)
    _finish(path, figure, plot, axes)


def _name_groups(plot: Any, groups: Sequence[str]) -> None:
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right", "fontsize": 8} if len(groups) > 4 else {}
    plot.set_xticks(range(len(groups)), groups, **slanted)


def _figure(path: Path) -> tuple[Any, Any]:
    if path.suffix not in FORMATS:
        raise InputError(f"plot: path={str(path)!r} must end in {', '.join(FORMATS)}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _finish(path: Path, figure: Any, plot: Any, axes: Axes) -> None:
    """Label and save. No date goes into the file: the same figures give the same bytes."""
    from matplotlib import rc_context

    plot.set_title(axes.title)
    plot.set_xlabel(axes.x)
    plot.set_ylabel(axes.y)
    plot.grid(True, alpha=0.3)
    if plot.get_legend_handles_labels()[1]:
        plot.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {"Software": None}}[path.suffix]
    with rc_context({"svg.hashsalt": "cxlbed"}):
        figure.savefig(path, dpi=150, metadata=undated)

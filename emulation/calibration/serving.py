"""The serving model beside SAC's Figures 4, 9, 10, 11 and its latency tails, point by point. Knows readings and simulations;
the parameters and their fit are in emulation.calibration.parameters.

What each part of the data says is told beside the parameter that rests on it. Misses take theirs from Fig 4 and GLM-5.1's
buffers alone, links from the profiles: the gap between CXL and DRAM is a prediction at every point."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from emulation.calibration.readings import Point, readings
from emulation.serving.cluster import simulate
from emulation.serving.metrics import Summary
from emulation.serving.spec import GB, ClusterSpec, EngineCosts, ModelShape
from emulation.serving.workload import ClosedLoop
from emulation.timing.misses import BufferLaw

NUM_PROMPTS, OUTPUT_LEN = 512, 1024
HEADLINE = {"throughput over RDMA": 2.1, "TTFT below RDMA": 9.7, "TBT below RDMA": 1.8, "throughput of DRAM": 0.91}


@dataclass(frozen=True)
class Cell:
    """One run of the paper's: what a reading belongs to."""

    tier: str
    context_tokens: int
    concurrency: int
    round_number: int

    def serve(self, costs: EngineCosts) -> Summary:
        """The model's figures, as the paper ran it. HBM only finds its prefixes in HBM: its plateau leaves no time to compute
        them."""
        return _served(self, costs)


@dataclass(frozen=True)
class Figure:
    """A file of readings. columns: its figures, each with the model's; usual: a concurrency or round that all its rows have."""

    title: str
    file: str
    columns: Sequence[str]
    round_number: int
    concurrency: int | None = None  # None: a column of the file

    def cell(self, row: dict[str, str]) -> Cell:
        concurrency = self.concurrency or int(row["concurrency"])
        return Cell(row["tier"], int(row["context_tokens"]), concurrency, self.round_number)


MEANS = ("tokens_per_s", "tbt_ms", "ttft_s")
FIG9 = Figure("SAC Fig 9: round 1, concurrency 8", "fig9_round1.csv", MEANS, 1, 8)
FIG10 = Figure("SAC Fig 10: round 2, concurrency 64", "fig10_round2.csv", MEANS, 2, 64)
FIG11 = Figure("SAC Fig 11: round 2, 32K", "fig11_concurrency_32k.csv", ("tokens_per_s",), 2)
TAILS = Figure(
    "SAC, latency distribution: round 2, 128K, DRAM",
    "tails_dram_128k.csv",
    ("mean_tbt_ms", "p99_tbt_ms", "mean_ttft_s", "p99_ttft_s"),
    2,
)
SERVING_FIGURES = (FIG9, FIG10, FIG11, TAILS)


@dataclass(frozen=True)
class ServingPoint(Point):
    """A reading of a serving figure: of which run, and which figure of it."""

    cell: Cell
    column: str
    over_concurrency: bool

    @property
    def series(self) -> str:
        """The series that it is of: a tier's results of one round by context, or over concurrency (its tails if of those)."""
        tails = ", tails" if self.column.startswith(("mean_", "p99_")) else ""
        return f"{self.cell.tier} round {self.cell.round_number}{', over concurrency' if self.over_concurrency else ''}{tails}"


def points(figure: Figure, costs: EngineCosts | None = None, tiers: Iterable[str] = ()) -> list[ServingPoint]:
    """The model beside every reading of a figure (of some tiers)."""
    costs = costs or EngineCosts()
    found = []
    for row in readings(figure.file):
        cell = figure.cell(row)
        if not tiers or cell.tier in tiers:
            summary = cell.serve(costs)
            found += [
                ServingPoint(
                    _name(figure, cell, column),
                    float(row[column]),
                    model_figure(summary, column),
                    cell,
                    column,
                    not figure.concurrency,
                )
                for column in figure.columns
            ]
    return found


def model_figure(summary: Summary, column: str) -> float:
    """The model's figure for a column. TBT is the time between tokens; its mean is that over requests, as the paper's."""
    ttft_ms, tpot_ms = summary.ttft_ms, summary.tpot_ms
    figures = {
        "tokens_per_s": summary.output_throughput,
        "tbt_ms": tpot_ms.mean,
        "ttft_s": ttft_ms.mean,
        "mean_tbt_ms": tpot_ms.mean,
        "p99_tbt_ms": summary.itl_ms.p99,
        "mean_ttft_s": ttft_ms.mean,
        "p99_ttft_s": ttft_ms.p99,
    }
    figure = figures[column]
    assert figure is not None  # the paper's requests have many tokens
    return figure / 1e3 if column.endswith("ttft_s") else figure


def fig4_points() -> list[Point]:
    """KV of a request and the part touched over 1K tokens, GB, at every reading of Fig 4."""
    found = []
    for row in readings("fig4_footprint.csv"):
        context_tokens, token_bytes = int(row["context_tokens"]), ModelShape().token_bytes
        touched = BufferLaw.for_context(context_tokens).touched(OUTPUT_LEN)
        total_gb, active_gb = context_tokens * token_bytes / GB, touched * token_bytes / GB
        found.append(Point(f"{context_tokens} total_gb", float(row["total_gb"]), total_gb))
        found.append(Point(f"{context_tokens} active_gb", float(row["active_gb"]), active_gb))
    return found


def headline_points(fig10: Sequence[Point]) -> list[Point]:
    """The paper's four headline ratios, each a mean over the context lengths, from the points of Fig 10."""
    model = {point.name: point.model for point in fig10}
    contexts = sorted({int(point.name.split()[1]) for point in fig10})

    def mean_ratio(of: str, to: str, name: str) -> float:
        return sum(model[f"{of} {context} {name}"] / model[f"{to} {context} {name}"] for context in contexts) / 4

    ratios = (
        mean_ratio("cxl", "rdma", "tokens_per_s"),
        mean_ratio("rdma", "cxl", "ttft_s"),
        mean_ratio("rdma", "cxl", "tbt_ms"),
        mean_ratio("cxl", "dram", "tokens_per_s"),
    )
    return [Point(name, reading, ratio) for (name, reading), ratio in zip(HEADLINE.items(), ratios, strict=True)]


@cache
def _served(cell: Cell, costs: EngineCosts) -> Summary:
    workload = ClosedLoop(NUM_PROMPTS, cell.concurrency, cell.context_tokens, OUTPUT_LEN, cell.round_number)
    spec = ClusterSpec(cell.tier, costs=costs, free_hbm_prefix=True)
    return simulate(spec, workload).recorder.summary()


def _name(figure: Figure, cell: Cell, column: str) -> str:
    at = "" if figure.concurrency else f" x {cell.concurrency}"
    return f"{cell.tier} {cell.context_tokens}{at} {column}"

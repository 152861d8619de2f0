"""The serving model beside SAC's Figures 4, 9 and 10, cell by cell, and the fit of its parameters to them.
Knows readings and simulations. Figures 3 and 5 are fitted by emulation.calibration.fetch; their profiles are used here.

Eleven parameters (`EngineCosts`, its fitted ones) stand behind 72 serving figures; misses take theirs from Fig 4 alone,
links from the profiles. What each part of the data says:
- Fig 9's TTFT is linear in tokens with a small square: 5,000 tokens per second of prefill, eight ranks at once.
- TBT without a pool bound (DRAM) grows by 6 ms with the context at one request per GPU and by 17 ms at eight: a part that
  the longest context sets (top-k selection) and a part that each request adds (indexer).
- Fig 10's DRAM TTFT is that of eight equal requests per GPU that are admitted one after the other, decode waiting: the mean is
  4.5 admissions. Its growth with context is one copy per layer and page of indexer keys.
- Fig 10's gap between CXL and DRAM is Fig 4's misses over the devices' shared bandwidth; nothing is fitted there.
- RDMA: TTFT is about a third of the time that decode loses. One transfer per GPU at a time, all sharing one transfer engine
  bound per entry (0.38 us, near Fig 5's 0.49) and per request, that slows compute by two thirds while it runs, gives
  TTFT, TBT and throughput at four contexts from three parameters; and, moved out and back in once, round 1 as well."""

from collections.abc import Sequence
from dataclasses import replace

from emulation.calibration.fit import pattern_search
from emulation.calibration.readings import Point, readings, summary
from emulation.serving.cluster import simulate
from emulation.serving.spec import GB, ClusterSpec, EngineCosts, ModelShape
from emulation.serving.workload import ClosedLoop
from emulation.timing.misses import FootprintLaw

NUM_PROMPTS, OUTPUT_LEN = 512, 1024
CONCURRENCY = {1: 8, 2: 64}
FIGURES = ("tokens_per_s", "tbt_ms", "ttft_s")
HEADLINE = {"throughput over RDMA": 2.1, "TTFT below RDMA": 9.7, "TBT below RDMA": 1.8, "throughput of DRAM": 0.91}

BASE_PARAMETERS = (
    "step_base_ns",
    "step_request_ns",
    "step_context_token_ns",
    "step_longest_token_ns",
    "prefill_token_ns",
    "prefill_token_slope_ns",
    "admission_ns",
    "index_page_ns",
)
PREFETCH_PARAMETERS = ("prefetch_request_ns", "prefetch_ops_per_entry", "prefetch_slowdown")


def fig4_points() -> list[Point]:
    """KV of a request and the part touched over 1K tokens, GB, at every reading of Fig 4."""
    points = []
    for row in readings("fig4_footprint.csv"):
        context_tokens, token_bytes = int(row["context_tokens"]), ModelShape().token_bytes
        touched = FootprintLaw.for_context(context_tokens).touched(OUTPUT_LEN)
        total_gb, active_gb = context_tokens * token_bytes / GB, touched * token_bytes / GB
        points.append(Point(f"{context_tokens} total_gb", float(row["total_gb"]), total_gb))
        points.append(Point(f"{context_tokens} active_gb", float(row["active_gb"]), active_gb))
    return points


def serving_points(
    round_number: int, costs: EngineCosts | None = None, tiers: Sequence[str] = ("dram", "cxl", "rdma")
) -> list[Point]:
    """Tokens per second, TBT and TTFT at every reading of Fig 9 (round 1) or Fig 10 (round 2)."""
    points = []
    for row in readings("fig9_round1.csv" if round_number == 1 else "fig10_round2.csv"):
        tier, context_tokens = row["tier"], int(row["context_tokens"])
        if tier in tiers:
            figures = serve_cell(tier, context_tokens, round_number, costs or EngineCosts())
            points += [
                Point(f"{tier} {context_tokens} {name}", float(row[name]), figure)
                for name, figure in zip(FIGURES, figures, strict=True)
            ]
    return points


def serve_cell(tier: str, context_tokens: int, round_number: int, costs: EngineCosts) -> tuple[float, float, float]:
    """(tokens per second, mean TBT in ms, mean TTFT in s) of one cell, as the paper ran it."""
    workload = ClosedLoop(NUM_PROMPTS, CONCURRENCY[round_number], context_tokens, OUTPUT_LEN, round_number)
    figures = simulate(ClusterSpec(tier, costs=costs), workload).recorder.summary()
    return figures.output_throughput, figures.tpot_ms.mean, figures.ttft_ms.mean / 1e3


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


def fit_engine_costs() -> EngineCosts:
    """The parameters with the least error at Fig 9 and 10, from the shipped ones: first those that all tiers share, on DRAM
    and CXL, then those of the prefetch, on RDMA. About three minutes."""
    return _fitted(_fitted(EngineCosts(), BASE_PARAMETERS, ("dram", "cxl")), PREFETCH_PARAMETERS, ("rdma",))


def _badness(costs: EngineCosts, tiers: Sequence[str]) -> float:
    """Mean error of Fig 10, half as much of Fig 9, and weight on Fig 10's worst, which means would leave far out."""
    fig10, fig9 = serving_points(2, costs, tiers), serving_points(1, costs, tiers)
    means = [sum(abs(point.error) for point in points) / len(points) for points in (fig10, fig9)]
    return means[0] + 0.5 * means[1] + 0.25 * summary(fig10)[1]


def _fitted(start: EngineCosts, names: Sequence[str], tiers: Sequence[str]) -> EngineCosts:
    """`start` with the parameters of `names` at their least error at the figures of `tiers`."""

    def costs(values: Sequence[float]) -> EngineCosts:
        return replace(start, **dict(zip(names, values, strict=True)))

    values = tuple(getattr(start, name) for name in names)
    return costs(pattern_search(lambda x: _badness(costs(x), tiers), values, step=0.04, least_step=0.004, gain=1e-6))

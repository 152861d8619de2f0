"""Tables, pictures and words for `cxlbed serve --compare`. Knows comparisons; runs nothing.

A tier is called ahead only where intervals do not overlap; where they do, the order is not decided by what is known."""

from pathlib import Path

from rich.table import Table

from emulation.report.plots import Axes, band, draw_lines
from emulation.report.tables import make_table
from emulation.report.wording import significant, span_of
from emulation.serving.compare import Comparison, TippingPoint
from emulation.serving.fit_range import FIT_RANGE, outside_fit
from emulation.serving.intervals import variants
from emulation.serving.records import ComparisonRecord, ConcurrencyPoint, TierOrder
from emulation.serving.rivals import RivalPoint
from emulation.timing.interval import Interval, Order
from emulation.timing.tiers import RIVALS, SERVED
from sac_runtime.label import Label


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Throughput by concurrency, CXL's lead by its latency and bandwidth, and by the rivals' figures."""
    setting = comparison.setting
    where = f"{setting.context_tokens} tokens, concurrency {setting.concurrency}"
    by_concurrency = make_table(
        f"{setting.context_tokens} tokens of context: output tokens per second, modelled, with what is known of them",
        ("concurrency", *SERVED.values()),
        [
            (concurrency, *(_worded(comparison.throughputs[tier][place]) for tier in SERVED))
            for place, concurrency in enumerate(comparison.concurrencies)
        ],
        caption=_caption(comparison),
    )
    grid = make_table(
        f"{where}: CXL's throughput over the others'",
        ("CXL latency ns", "device GB/s", "over RDMA", "", "over HBM only", "", "of DRAM"),
        [
            (
                point.latency_ns,
                point.device_bytes_per_ns,
                point.ratios["rdma"],
                point.orders["rdma"],
                point.ratios["hbm"],
                point.orders["hbm"],
                point.ratios["dram"],
            )
            for point in comparison.grid
        ],
    )
    rivals = make_table(
        f"{where}: the rivals on other figures of theirs",
        ("rival", "with", "tokens/s", "CXL over it", "CXL is"),
        [
            (SERVED[point.rival], point.what, _worded(point.output_throughput), point.ratio, point.order)
            for point in comparison.rivals
        ],
    )
    return [by_concurrency, grid, rivals]


def verdict(comparison: Comparison) -> list[str]:
    """The answer in sentences."""
    setting = comparison.setting
    where = f"{setting.context_tokens} tokens of context, concurrency {setting.concurrency}"
    sentences = [
        f"{where}: CXL serves {comparison.ratio('rdma'):.2f}x the tokens of RDMA prefetch, {comparison.ratio('hbm'):.2f}x "
        f"those of HBM only, {comparison.ratio('dram'):.0%} of local DRAM's.",
        *(f"CXL against {SERVED[rival]}: {comparison.order(rival)}." for rival in (*RIVALS, "dram")),
        _crossover_words(comparison),
        _break_even_words(comparison),
        *(_range_words(comparison, rival) for rival in RIVALS),
        *(sentence for rival in RIVALS for sentence in _rival_words(comparison, rival)),
    ]
    return sentences + [_tipping_words(point) for point in comparison.tipping_points]


def comparison_record(comparison: Comparison) -> ComparisonRecord:
    """A comparison for its JSON, its words included."""
    setting = comparison.setting
    rdma = setting.spec("rdma")
    return ComparisonRecord(
        model=rdma.model.name,
        gpu=rdma.gpu.name,
        gpus=rdma.server.num_gpus,
        rdma=rdma.rdma.name,
        nics=rdma.rdma.nics,
        nic_gbit=rdma.nic_gbit,
        context_tokens=setting.context_tokens,
        concurrency=setting.concurrency,
        output_tokens=setting.output_tokens,
        hbm_prefix_kept=setting.base.free_hbm_prefix,
        outside_fit=_outside(comparison),
        fit_range=FIT_RANGE,
        label=Label.MODELLED,
        ratios={tier: comparison.ratio(tier) for tier in ("rdma", "hbm", "dram")},
        orders=[
            TierOrder(tier, comparison.order(tier), comparison.at_concurrency("cxl"), comparison.at_concurrency(tier))
            for tier in ("rdma", "hbm", "dram")
        ],
        by_concurrency=[
            ConcurrencyPoint(
                concurrency,
                **{tier: figures[place].value for tier, figures in comparison.throughputs.items()},
                intervals={tier: figures[place] for tier, figures in comparison.throughputs.items()},
            )
            for place, concurrency in enumerate(comparison.concurrencies)
        ],
        interval_from=_covered(comparison),
        hbm_crossover_concurrency=comparison.hbm_crossover,
        hbm_decided_concurrency=comparison.hbm_decided,
        break_even_steps=comparison.break_even_steps,
        grid=comparison.grid,
        rivals=comparison.rivals,
        flips=comparison.tipping_points,
        verdict=verdict(comparison),
    )


def draw_comparison(folder: Path, comparison: Comparison) -> Path:
    """Throughput by concurrency of the four tiers with their bands, the crossover with HBM only marked. Returns the file."""
    path = folder / f"compare_{comparison.setting.context_tokens}.svg"
    axes = Axes(
        f"{comparison.setting.context_tokens} tokens of context", "concurrency", "output tokens per second", log_x=True
    )
    series = [band(name, comparison.concurrencies, comparison.throughputs[tier]) for tier, name in SERVED.items()]
    crossover = comparison.hbm_crossover
    draw_lines(path, axes, series, marks={"above HBM only": crossover} if crossover else None)
    return path


def _worded(figure: Interval) -> str:
    return f"{significant(figure.value)} ({span_of(figure.low, figure.high)})"


def _caption(comparison: Comparison) -> str:
    rdma = comparison.setting.spec("rdma")
    lines = [
        f"{rdma.model.name} on {rdma.server.num_gpus} {rdma.gpu.name} per server; RDMA as {rdma.rdma.name!r}, "
        f"{rdma.rdma.nics} NICs of {significant(rdma.nic_gbit or 0.0)} Gb/s; prefixes in HBM "
        f"{'for nothing' if rdma.free_hbm_prefix else 'only if all fit'}",
        f"fitted to {FIT_RANGE.words()}",
        *(f"outside the fit: {word}" for word in _outside(comparison)),
        f"intervals cover: {'; '.join(_covered(comparison)) or 'nothing'}",
    ]
    return "\n".join(lines)


def _outside(comparison: Comparison) -> tuple[str, ...]:
    setting = comparison.setting
    context, output = (setting.context_tokens,) * 2, (setting.output_tokens,) * 2
    return outside_fit(setting.spec("rdma"), context, output, setting.concurrency)


def _covered(comparison: Comparison) -> list[str]:
    setting = comparison.setting
    num_points = setting.residuals.num_points("cxl")
    others = dict.fromkeys(other.what for tier in comparison.throughputs for other in variants(setting.spec(tier)))
    return [*([f"errors of the fit at {num_points} readings per tier"] if num_points else []), *others]


def _rival_words(comparison: Comparison, rival: str) -> list[str]:
    """For which of a rival's figures the order holds."""
    points = [point for point in comparison.rivals if point.rival == rival]
    by_order: dict[Order, list[RivalPoint]] = {}
    for point in points:
        by_order.setdefault(point.order, []).append(point)
    return [
        f"CXL against {SERVED[rival]} with other figures of its own: {order} for "
        f"{'; '.join(f'{point.what} ({point.ratio:.2f}x)' for point in of_order)}."
        for order, of_order in by_order.items()
    ]


def _crossover_words(comparison: Comparison) -> str:
    if comparison.hbm_crossover is None:
        return f"By value HBM only stays ahead up to concurrency {comparison.concurrencies[-1]}, as far as looked at."
    decided = comparison.hbm_decided
    return (
        f"By value CXL stays above HBM only from concurrency {comparison.hbm_crossover} on, as far as looked at "
        f"({comparison.concurrencies[-1]}); "
        + (
            f"intervals no longer overlap from {decided} on."
            if decided
            else f"that is {Order.UNDECIDED} at any of them."
        )
    )


def _break_even_words(comparison: Comparison) -> str:
    if comparison.break_even_steps is None:
        return "n*: top-k fetches never move as much as one full prefix within as many steps as the context has tokens."
    return f"n*: after {comparison.break_even_steps} decode steps top-k fetches have moved more than one full prefix."


def _tipping_words(point: TippingPoint) -> str:
    rival = SERVED[point.rival]
    name, unit = ("device bandwidth", "GB/s") if point.quantity == "device_bytes_per_ns" else ("CXL latency", "ns")
    at = f" at {point.latency_ns} ns" if point.latency_ns else ""
    if point.at is None:
        return f"By value, against {rival}: {'ahead' if point.ahead_at_low else 'behind'} at any {name}{at}."
    ahead, behind = ("below", "above") if point.ahead_at_low else ("above", "below")
    return (
        f"By value, against {rival}: ahead {ahead} a {name} of {significant(point.at)} {unit}{at}, behind {behind} it."
    )


def _range_words(comparison: Comparison, rival: str) -> str:
    ratios = [point.ratios[rival] for point in comparison.grid]
    latencies = [point.latency_ns for point in comparison.grid]
    rates = [point.device_bytes_per_ns for point in comparison.grid]
    orders = [point.orders[rival] for point in comparison.grid]
    counts = "; ".join(
        f"{order} at {orders.count(order)} of {len(orders)} points" for order in Order if order in orders
    )
    return (
        f"Over {min(latencies)} to {max(latencies)} ns and {significant(min(rates))} to {significant(max(rates))} GB/s per "
        f"device, against {SERVED[rival]} as it is: {counts}; {min(ratios):.2f}x to {max(ratios):.2f}x."
    )

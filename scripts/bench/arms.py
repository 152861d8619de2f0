"""Benchmarks by arms: all run in one process, interleaved round by round, medians compared. Knows clocks and tables.

Imported by the scripts beside it (python puts their folder on the path).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sac_runtime.memory.mapped import MappedStore


@dataclass(frozen=True)
class Bound:
    """A ratio of two figures that must not rise above `at_most`."""

    name: str
    value: float
    at_most: float

    @property
    def held(self) -> bool:
        return self.value <= self.at_most


def medians_us(arms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median microseconds of a call of each arm; one call of each in every round, after one round to warm up."""
    samples: dict[str, list[float]] = {name: [] for name in arms}
    for round_number in range(rounds + 1):
        for name, arm in arms.items():
            start_ns = time.perf_counter_ns()
            arm()
            if round_number:
                samples[name].append((time.perf_counter_ns() - start_ns) / 1000)
    return {name: statistics.median(values) for name, values in samples.items()}


def require_huge_pages(store: MappedStore) -> None:
    """End the script where less than nine tenths of a store lie on huge pages: its figures would be another machine's."""
    if store.huge_page_bytes() < 0.9 * store.size_bytes:
        sys.exit(f"{store.huge_page_bytes()} of {store.size_bytes} bytes lie on huge pages; enable them (madvise)")


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, help="write the figures here too")
    made.add_argument("--rounds", type=int, default=201)
    return made


def report(arguments: argparse.Namespace, figures: Mapping[str, float], unit: str, bounds: list[Bound]) -> int:
    """Print figures and bounds, write them as JSON where asked. Returns 1 if a bound does not hold, else 0."""
    width = max(len(name) for name in [*figures, *(bound.name for bound in bounds)])
    for name, figure in figures.items():
        print(f"{name:<{width}}  {figure:10.1f} {unit}")
    for bound in bounds:
        verdict = "held" if bound.held else "MISSED"
        print(f"{bound.name:<{width}}  {bound.value:10.3f} at most {bound.at_most:g}: {verdict}")
    if arguments.json:
        checked = [{"name": b.name, "value": b.value, "at_most": b.at_most, "held": b.held} for b in bounds]
        arguments.json.write_text(
            json.dumps({"unit": unit, "figures": dict(figures), "bounds": checked}, indent=2) + "\n"
        )
    return 0 if all(bound.held for bound in bounds) else 1

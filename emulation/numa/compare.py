"""Sets a measured node beside a profile, and tops its latency up to the profile's. Knows both; prints nothing.

A measured and a published figure stand side by side; no ratio is drawn between them, since they came about differently.
Ratios are drawn between nodes, which were measured alike.
"""

from dataclasses import dataclass

from emulation.latency.chase import chase, write_chain
from emulation.numa.measure import Effort, Figures
from emulation.timing.clock import WallClock
from emulation.timing.path import default_path
from emulation.timing.profile import Profile
from sac_runtime.label import Label
from sac_runtime.memory.mapped import MappedStore


@dataclass(frozen=True)
class Record:
    """One measured figure of one node, with what other threads read of it meanwhile."""

    figure: str
    node: int
    value: float
    unit: str
    others_bytes_per_ns: float = 0.0
    label: Label = Label.NUMA_MEASURED


@dataclass(frozen=True)
class Beside:
    """A figure as measured, and as the profile has it with its source."""

    figure: str
    unit: str
    measured: float
    profile: float
    source: str
    others_bytes_per_ns: float = 0.0


@dataclass(frozen=True)
class TopUp:
    """A chase with each read stalled to the profile's latency, or why there is none."""

    wanted_ns: float
    achieved_ns: float | None
    num_late: int  # reads that the memory was too slow for
    reason: str  # "" where the stall was made
    label: Label = Label.INJECTED


def records(node: int, figures: Figures) -> list[Record]:
    """All figures of a node, flat."""
    return [
        Record("latency", node, figures.latency_ns, "ns"),
        Record("read, one thread", node, figures.read_bytes_per_ns, "GB/s"),
        Record("write, one thread", node, figures.write_bytes_per_ns, "GB/s"),
        Record("read, all threads", node, figures.read_all_bytes_per_ns, "GB/s"),
        Record("write, all threads", node, figures.write_all_bytes_per_ns, "GB/s"),
        *[
            Record("latency under load", node, point.latency_ns, "ns", point.others_bytes_per_ns)
            for point in figures.loaded
        ],
    ]


def beside_profile(figures: Figures, profile: Profile) -> list[Beside]:
    """Measured figures beside the profile's. All threads share its narrowest link: adapter, ports or devices."""
    read_all, read_link = min(
        (profile.adapter.read_bytes_per_ns, "adapter"),
        (profile.port.read_bytes_per_ns * profile.num_devices, "port"),
        (profile.device.read_bytes_per_ns * profile.num_devices, "device"),
    )
    return [
        Beside("latency", "ns", figures.latency_ns, profile.read_latency_ns, profile.sources["read_latency_ns"]),
        Beside(
            "read, one thread",
            "GB/s",
            figures.read_bytes_per_ns,
            profile.reader.read_bytes_per_ns,
            profile.sources["reader.read_bytes_per_ns"],
        ),
        Beside(
            "read, all threads",
            "GB/s",
            figures.read_all_bytes_per_ns,
            read_all,
            profile.sources[f"{read_link}.read_bytes_per_ns"],
        ),
        *[
            Beside(
                "latency under load",
                "ns",
                point.latency_ns,
                profile.latency_ns(load=min(1.0, point.others_bytes_per_ns / read_all)),
                profile.sources["loaded_latency"],
                point.others_bytes_per_ns,
            )
            for point in figures.loaded
        ],
    ]


def top_up(store: MappedStore, measured_ns: float, profile: Profile, effort: Effort) -> TopUp:
    """Chase with added stalls where the node is faster than the profile. The store's content is lost."""
    wanted_ns = profile.latency_ns()
    if measured_ns >= wanted_ns:
        return TopUp(
            wanted_ns,
            None,
            0,
            f"the node reads in {measured_ns:.0f} ns already; a stall can add time, not take it away",
        )
    write_chain(store)
    clock = WallClock()
    achieved_ns = chase(store, default_path(profile), clock, row=0, num_reads=effort.num_reads)
    return TopUp(wanted_ns, achieved_ns, clock.error.num_late, "")

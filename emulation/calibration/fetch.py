"""Fits the free parameters of the SAC testbed's profiles to the paper's Figures 5 and 3. Knows profiles and readings.

What is fitted, and what it means:
  setup_ns, floor_ns           a GPU kernel's start and completion; the host's side of a launch. One value for all tiers.
  dram reader.read_bytes_per_ns  what the GPU's PCIe 5.0 x16 link carries.
  cxl read_latency_ns          a GPU's read through the switch; with the reader's window it sets the slope (Little's law).
  rdma request_ns, op_ns       hand-over to the NIC and completion; one work request.
  prefix setup_ns, request_ns, adapter  of a whole-prefix fetch: its own start, its turn at the engine, the NIC in loopback.
All other figures of these profiles are published or assumed; the file says which."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from emulation.calibration.fit import Values, pattern_search
from emulation.calibration.readings import Point, readings
from emulation.latency.modelled import entries_us, prefix_mean_s
from emulation.timing.interval import Residual
from emulation.timing.profile import Bandwidth, Profile, load_profile
from emulation.timing.tiers import FIG5_PROFILES, PREFIX_ENGINE


@dataclass(frozen=True)
class GpuFetchParameters:
    """Free parameters of Fig 5."""

    setup_ns: float
    floor_ns: float
    pcie_bytes_per_ns: float
    cxl_latency_ns: float
    rdma_request_ns: float
    rdma_op_ns: float

    def profiles(self) -> dict[str, Profile]:
        """The three tiers' profiles with these parameters, whole ns and GB/s to two places."""
        dram, cxl, rdma = (self._with_reader(load_profile(name)) for name in FIG5_PROFILES.values())
        return {
            "dram": dram,
            "cxl": replace(cxl, read_latency_ns=round(self.cxl_latency_ns)),
            "rdma": replace(rdma, request_ns=round(self.rdma_request_ns), op_ns=round(self.rdma_op_ns)),
        }

    def _with_reader(self, profile: Profile) -> Profile:
        rate = round(self.pcie_bytes_per_ns, 2)
        setup_ns, floor_ns = round(self.setup_ns), round(self.floor_ns)
        return replace(profile, setup_ns=setup_ns, floor_ns=floor_ns, reader=Bandwidth(rate, rate))


@dataclass(frozen=True)
class PrefixParameters:
    """Free parameters of Fig 3."""

    setup_ns: float
    request_ns: float
    nic_bytes_per_ns: float

    def profile(self) -> Profile:
        """The prefix profile with these parameters, to whole us and GB/s to two places."""
        rate = round(self.nic_bytes_per_ns, 2)
        return replace(
            load_profile(PREFIX_ENGINE),
            setup_ns=1000 * round(self.setup_ns / 1000),
            request_ns=1000 * round(self.request_ns / 1000),
            adapter=Bandwidth(rate, rate),
        )


def fig5_points(profiles: dict[str, Profile]) -> list[Point]:
    """Time of one GPU's fetch of n random entries, us, at every reading of Fig 5."""
    return [
        Point(
            f"{row['tier']} {row['entries']}", float(row["us"]), entries_us(profiles[row["tier"]], int(row["entries"]))
        )
        for row in readings("fig5_gpu_fetch.csv")
    ]


def fig3_points(profile: Profile) -> list[Point]:
    """Mean time of whole-prefix fetches that begin at once, s, at every reading of Fig 3."""
    return [
        Point(
            f"{row['context_tokens']} x {row['concurrency']}",
            float(row["mean_s"]),
            prefix_mean_s(profile, int(row["context_tokens"]), int(row["concurrency"])),
        )
        for row in readings("fig3_rdma_prefix.csv")
    ]


def entry_residuals() -> dict[str, Residual]:
    """Errors at Fig 5's readings, by profile that is fitted to them."""
    points = fig5_points({tier: load_profile(name) for tier, name in FIG5_PROFILES.items()})
    return {
        name: Residual.of(point.error for point in points if point.name.split()[0] == tier)
        for tier, name in FIG5_PROFILES.items()
    }


def prefix_residuals() -> dict[str, Residual]:
    """Errors at Fig 3's readings, by profile that is fitted to them."""
    return {PREFIX_ENGINE: Residual.of(point.error for point in fig3_points(load_profile(PREFIX_ENGINE)))}


def fit_gpu_fetch() -> GpuFetchParameters:
    """Parameters with the least error at Fig 5's readings, from a fixed start: the same every time."""
    start = (7_000.0, 11_000.0, 50.0, 2_000.0, 6_000.0, 500.0)
    return GpuFetchParameters(*_fitted(start, lambda x: fig5_points(GpuFetchParameters(*x).profiles())))


def fit_prefix() -> PrefixParameters:
    """Parameters with the least error at Fig 3's readings, from a fixed start: the same every time."""
    start = (10_000_000.0, 10_000_000.0, 12.5)
    return PrefixParameters(*_fitted(start, lambda x: fig3_points(PrefixParameters(*x).profile())))


def stale_profiles(fitted: Sequence[Profile]) -> list[str]:
    """Names of the profiles whose shipped files hold other figures than `fitted`."""
    return [profile.name for profile in fitted if profile != load_profile(profile.name)]


def _fitted(start: Values, points: Callable[[Values], Sequence[Point]]) -> Values:
    return pattern_search(lambda x: _badness(points(x)), start, step=0.2, least_step=1e-4, gain=1e-9, pairs=True)


def _badness(points: Sequence[Point]) -> float:
    """Mean error with weight on the worst, which a plain mean would leave far out."""
    errors = [abs(point.error) for point in points]
    return sum(errors) / len(errors) + 0.25 * max(errors)

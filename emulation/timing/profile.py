"""Profiles: what one reader sees of one memory tier, each number beside its source.
Knows figures; their file is profile_file.py's, where files lie profile_folders.py's. Knows no clock and no link."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from emulation.errors import InputError
from emulation.files import read_text
from emulation.timing.figure_file import Figure
from emulation.timing.profile_file import CoherenceFigures, LinkFigures, parse_file
from emulation.timing.profile_folders import find_profile
from qemu_configs.file_paths import is_path

GPU_SUFFIX = "@gpu"
GPU_READER = "sac-gpu-dram"  # whose reader's figures `NAME@gpu` takes


@dataclass(frozen=True)
class Bandwidth:
    """What one link carries in each direction, in bytes per ns."""

    read_bytes_per_ns: float
    write_bytes_per_ns: float


@dataclass(frozen=True)
class Coherence:
    """What software's coherence takes for `num_bytes` at once, the transfer itself included, in ns. By what the CPU does:
    publish_ns: `non_temporal` stores, `clflush` or an `uncached` mapping; fresh_read_ns: `clflush` or `uncached`."""

    num_bytes: int
    publish_ns: Mapping[str, int]
    fresh_read_ns: Mapping[str, int]


@dataclass(frozen=True)
class Profile:
    """One reader's view of one tier. Times are unloaded, in ns."""

    name: str
    tier: str
    read_by: str  # cpu: one core; gpu: over PCIe
    summary: str
    read_latency_ns: int  # one dependent 64 B read
    write_latency_ns: int  # one 64 B write until it is durable in the tier
    setup_ns: int  # start and completion of a fetch: kernel launch, driver; overlaps with other readers
    floor_ns: int  # no fetch is timed shorter: the host's side of a launch; 0 for a CPU
    request_ns: int  # cost of a request at the adapter, which serves one after the other: doorbell, lookup
    op_ns: int  # cost of each piece at the adapter, one after the other: an RDMA work request; 0 for loads
    outstanding_bytes: int  # how much a reader keeps in flight
    num_devices: int  # devices that a reader's rows are spread over where no topology says otherwise
    reader: Bandwidth
    adapter: Bandwidth
    port: Bandwidth
    device: Bandwidth
    loaded_latency: tuple[tuple[float, float], ...]  # (load by others 0..1, factor on the latency), rising
    subject: str | None  # what is described: profiles of one subject are readings of the same thing, which may disagree
    coherence: (
        Coherence | None
    )  # what hosts take that share the tier without hardware's help; None: nothing, or unknown
    sources: Mapping[str, str]  # dotted name of each figure -> its source

    def latency_ns(self, write: bool = False, load: float = 0.0) -> float:
        """Latency of one access while others load the path's busiest link to `load` (0..1)."""
        unloaded = self.write_latency_ns if write else self.read_latency_ns
        return unloaded * latency_factor(self.loaded_latency, load) if load else unloaded


def latency_factor(curve: tuple[tuple[float, float], ...], load: float) -> float:
    """Straight lines between the curve's points; flat before the first and after the last."""
    before = curve[0]
    for point in curve:
        if load <= point[0]:
            span = point[0] - before[0]
            return point[1] if span == 0 else before[1] + (load - before[0]) / span * (point[1] - before[1])
        before = point
    return before[1]


@cache
def load_profile(name_or_path: str) -> Profile:
    """The profile of that name, or in that file (a path has a slash or ends in .yaml or .yml). `NAME@gpu`: the same tier read
    by a GPU. Raises InputError where there is none, or with every finding in the file."""
    if name_or_path.endswith(GPU_SUFFIX):
        return read_by_gpu(load_profile(name_or_path.removesuffix(GPU_SUFFIX)))
    path = Path(name_or_path) if is_path(name_or_path) else find_profile(name_or_path)
    return parse_profile(read_text("profile file", path), str(path))


def read_by_gpu(tier: Profile) -> Profile:
    """A CPU's profile as a GPU would see the same tier: the reader's figures are those of GPU_READER, and the tier's latency
    comes on top of what that GPU takes to reach over PCIe (assumed to add up). Raises InputError for a GPU's profile."""
    if tier.read_by == "gpu":
        raise InputError(f"profile {tier.name}: read_by='gpu' already; take it without {GPU_SUFFIX}")
    gpu = load_profile(GPU_READER)
    readers_figures = (
        "setup_ns",
        "floor_ns",
        "outstanding_bytes",
        "reader.read_bytes_per_ns",
        "reader.write_bytes_per_ns",
    )
    sources = {**tier.sources, **{name: gpu.sources[name] for name in readers_figures}}
    for name in ("read_latency_ns", "write_latency_ns"):
        sources[name] = f"{tier.sources[name]}; plus a GPU's {gpu.read_latency_ns} ns over PCIe (assumed to add up)"
    return replace(
        tier,
        name=tier.name + GPU_SUFFIX,
        read_by="gpu",
        summary=f"{tier.summary.removesuffix(', one core')}, read by a GPU of the SAC testbed",
        read_latency_ns=tier.read_latency_ns + gpu.read_latency_ns,
        write_latency_ns=tier.write_latency_ns + gpu.write_latency_ns,
        setup_ns=gpu.setup_ns,
        floor_ns=gpu.floor_ns,
        outstanding_bytes=gpu.outstanding_bytes,
        reader=gpu.reader,
        sources=sources,
    )


def parse_profile(text: str, owner: str) -> Profile:
    """Profile from YAML text; `owner` names it in errors. Raises InputError with every finding, one per line."""
    file = parse_file(text, owner)
    return Profile(**{name: _value(part) for name, part in file}, sources=file.sources())


def _value(part: Any) -> Any:
    """What a part of the file is in a Profile: a text, a number, a bandwidth, a curve or times of coherence."""
    if isinstance(part, LinkFigures):
        return Bandwidth(part.read_bytes_per_ns.value, part.write_bytes_per_ns.value)
    if isinstance(part, CoherenceFigures):
        times = ({way: figure.value for way, figure in group} for group in (part.publish_ns, part.fresh_read_ns))
        return Coherence(part.num_bytes.value, *times)
    if isinstance(part, Figure):
        return tuple(map(tuple, part.value)) if isinstance(part.value, list) else part.value
    return part

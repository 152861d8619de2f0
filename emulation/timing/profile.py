"""Profiles: what one reader sees of one memory tier, each number beside its source.
Knows YAML files and figures, no clock and no link.

A file holds `name`, `tier`, `read_by`, `summary` and the figures of `Profile`; a figure is `{value: 220, source: "arXiv ..."}`,
and one that nobody published says `source: assumed ...`. Bandwidths are in bytes per ns, which is GB/s."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from emulation.errors import InputError

TIERS = ("dram", "numa", "cxl", "rdma")
READERS = ("cpu", "gpu")
GPU_SUFFIX = "@gpu"
GPU_READER = "sac-gpu-dram"  # whose reader's figures `NAME@gpu` takes
PROFILE_FOLDER = Path(__file__).parent / "profiles"
USER_FOLDER_VARIABLE = "CXLBED_PROFILES"

_COUNTS = ("read_latency_ns", "write_latency_ns", "setup_ns", "floor_ns", "request_ns", "op_ns")
_POSITIVE_COUNTS = ("outstanding_bytes", "num_devices")
_LINKS = ("reader", "adapter", "port", "device")
_TEXTS = ("name", "tier", "read_by", "summary")


@dataclass(frozen=True)
class Bandwidth:
    """What one link carries in each direction, in bytes per ns."""

    read_bytes_per_ns: float
    write_bytes_per_ns: float


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


def profile_names() -> list[str]:
    """Names of all profiles that can be had by name: the package's, then those in $CXLBED_PROFILES."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


@cache
def load_profile(name_or_path: str) -> Profile:
    """The profile of that name, or in that file (a path ends in .yaml). `NAME@gpu`: the same tier read by a GPU.
    Raises InputError where there is none, or with every finding in the file."""
    if name_or_path.endswith(GPU_SUFFIX):
        return read_by_gpu(load_profile(name_or_path.removesuffix(GPU_SUFFIX)))
    path = Path(name_or_path) if name_or_path.endswith(".yaml") else _find(name_or_path)
    try:
        text = path.read_text()
    except OSError as exc:
        raise InputError(f"profile file {path}: {exc.strerror or exc}; name a file that can be read") from exc
    return parse_profile(text, str(path))


def read_by_gpu(tier: Profile) -> Profile:
    """A CPU's profile as a GPU would see the same tier: the reader's figures are those of GPU_READER, and the tier's latency
    comes on top of what that GPU takes to reach over PCIe (assumed to add up). Raises InputError for a GPU's profile."""
    if tier.read_by == "gpu":
        raise InputError(f"profile {tier.name}: read_by='gpu' already; take it without {GPU_SUFFIX}")
    gpu = load_profile(GPU_READER)
    taken = ("setup_ns", "floor_ns", "outstanding_bytes", "reader.read_bytes_per_ns", "reader.write_bytes_per_ns")
    sources = {**tier.sources, **{name: gpu.sources[name] for name in taken}}
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
    """Profile from YAML text; `owner` names it in errors. Raises InputError with every finding, one a line."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise InputError(f"profile {owner}: not YAML: {exc}") from exc
    if not isinstance(tree, dict):
        raise InputError(f"profile {owner}: holds {type(tree).__name__}, needs keys: {', '.join(_keys())}")
    problems = _Problems(owner)
    problems.compare_keys("", tree, _keys())
    texts: dict[str, Any] = {key: problems.text(tree, key) for key in _TEXTS}
    for key, allowed in (("tier", TIERS), ("read_by", READERS)):
        if texts[key] not in allowed:
            problems.add(key, texts[key], f"must be one of {', '.join(allowed)}")
    sources: dict[str, str] = {}
    figures: dict[str, Any] = {key: problems.count(tree, key, sources, 0) for key in _COUNTS}
    figures |= {key: problems.count(tree, key, sources, 1) for key in _POSITIVE_COUNTS}
    figures |= {key: problems.bandwidth(tree, key, sources) for key in _LINKS}
    figures["loaded_latency"] = problems.curve(tree, sources)
    problems.raise_if_any()
    return Profile(**texts, **figures, sources=sources)


def _keys() -> list[str]:
    return [field.name for field in fields(Profile) if field.name != "sources"]


def _folders() -> list[Path]:
    user = os.environ.get(USER_FOLDER_VARIABLE, "")
    return [PROFILE_FOLDER, *(Path(folder) for folder in user.split(os.pathsep) if folder)]


def _find(name: str) -> Path:
    for folder in reversed(_folders()):
        path = folder / f"{name}.yaml"
        if path.is_file():
            return path
    known = ", ".join(profile_names())
    raise InputError(f"profile: name={name!r} is unknown; take one of {known}, or the path of a .yaml file")


class _Problems:
    """Reads a profile's tree, collecting every finding on the way."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._lines: list[str] = []

    def add(self, field: str, value: object, rule: str) -> None:
        self._lines.append(f"profile {self._owner}: {field}={value!r} {rule}")

    def raise_if_any(self) -> None:
        if self._lines:
            raise InputError("\n".join(self._lines))

    def compare_keys(self, prefix: str, tree: Mapping[str, Any], keys: list[str]) -> None:
        for key in tree:
            if key not in keys:
                self.add(f"{prefix}{key}", tree[key], f"is an unknown key; known are {', '.join(keys)}")
        for key in keys:
            if key not in tree:
                self.add(f"{prefix}{key}", None, "is missing; give it")

    def text(self, tree: Mapping[str, Any], key: str) -> str:
        value = tree.get(key, "")
        if not isinstance(value, str):
            self.add(key, value, "must be text")
        return str(value)

    def count(self, tree: Mapping[str, Any], key: str, sources: dict[str, str], least: int) -> int:
        value = self._figure(tree, key, key, sources)
        if value is None:
            return least
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.add(key, value, f"must be a whole number of at least {least}")
            return least
        return value

    def bandwidth(self, tree: Mapping[str, Any], key: str, sources: dict[str, str]) -> Bandwidth:
        names = [field.name for field in fields(Bandwidth)]
        link = tree.get(key)
        if not isinstance(link, dict):
            if key in tree:
                self.add(key, link, f"must hold {' and '.join(names)}")
            return Bandwidth(1.0, 1.0)
        self.compare_keys(f"{key}.", link, names)
        return Bandwidth(*(self._rate(link, key, name, sources) for name in names))

    def curve(self, tree: Mapping[str, Any], sources: dict[str, str]) -> tuple[tuple[float, float], ...]:
        value = self._figure(tree, "loaded_latency", "loaded_latency", sources)
        if value is None:
            return ((0.0, 1.0),)
        if not _is_rising_curve(value):
            rule = "must be a list of [load 0..1, factor >= 1], both rising, that starts at [0, 1]"
            self.add("loaded_latency", value, rule)
            return ((0.0, 1.0),)
        return tuple((float(load), float(factor)) for load, factor in value)

    def _rate(self, link: Mapping[str, Any], key: str, name: str, sources: dict[str, str]) -> float:
        value = self._figure(link, name, f"{key}.{name}", sources)
        if value is None:
            return 1.0
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            self.add(f"{key}.{name}", value, "must be a number above 0 (bytes per ns, which is GB/s)")
            return 1.0
        return float(value)

    def _figure(self, tree: Mapping[str, Any], key: str, dotted: str, sources: dict[str, str]) -> Any:
        figure = tree.get(key)
        if not isinstance(figure, dict) or set(figure) != {"value", "source"} or not figure["source"]:
            if key in tree:
                self.add(
                    dotted, figure, "must be {value: ..., source: ...}; where nobody published it, source: assumed"
                )
            return None
        sources[dotted] = str(figure["source"])
        return figure["value"]


def _is_rising_curve(value: object) -> bool:
    if not isinstance(value, list) or not value or not all(_is_point(point) for point in value):
        return False
    rising = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(value))
    return rising and list(value[0]) == [0, 1] and value[-1][0] <= 1


def _is_point(point: object) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(isinstance(number, int | float) for number in point)

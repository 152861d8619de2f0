"""The rivals' own figures, varied: other ways of RDMA, more and faster network cards, more HBM for KV. Knows specs; runs none."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from emulation.serving.hardware_files import load_rdma
from emulation.serving.scaling import scaled_costs, with_rdma
from emulation.serving.shipped import shipped_names
from emulation.serving.spec import GB, ClusterSpec, RdmaWay
from emulation.timing.interval import Interval, Order

FAST_WIRE_BYTES_PER_NS = 50.0  # 400 Gb/s
HBM_FACTORS = (0.5, 1.0, 2.0)  # of the HBM for KV


@dataclass(frozen=True)
class Rival:
    """A tier that CXL is compared with, on figures of its own. what: which, in words."""

    tier: str
    what: str
    spec: ClusterSpec


@dataclass(frozen=True)
class RivalPoint:
    """A rival's throughput, output tokens per second, CXL's over it, and whether that order is decided.

    rdma, nics, nic_gbit: of RDMA; hbm_kv_gb: of HBM only; else None."""

    rival: str
    what: str
    rdma: str | None
    nics: int | None
    nic_gbit: float | None
    hbm_kv_gb: float | None
    output_throughput: Interval
    ratio: float
    order: Order


def rivals(base: ClusterSpec) -> Iterator[Rival]:
    """The rivals of a CXL pool on the cluster `base`."""
    ways = dict.fromkeys((base.rdma, *map(load_rdma, shipped_names("rdma"))))
    for way in dict.fromkeys(wired for each in ways for wired in _wires(each)):
        yield _rdma(base, way)
    for factor in HBM_FACTORS:
        yield _hbm(base, factor)


def point_of(rival: Rival, throughput: Interval, cxl: Interval) -> RivalPoint:
    """A rival beside CXL's throughput."""
    spec = rival.spec
    way = spec.rdma if rival.tier == "rdma" else None
    return RivalPoint(
        rival=rival.tier,
        what=rival.what,
        rdma=way.name if way else None,
        nics=way.nics if way else None,
        nic_gbit=spec.nic_gbit,
        hbm_kv_gb=spec.server.hbm_kv_bytes / GB if rival.tier == "hbm" else None,
        output_throughput=throughput,
        ratio=cxl.value / throughput.value if throughput.value else float("inf"),
        order=cxl.order(throughput),
    )


def _wires(way: RdmaWay) -> Iterator[RdmaWay]:
    """A way as it is; with a 400 Gb wire where its own is slower and not a claim of its own; with twice the cards."""
    yield way
    if way.request_ns is None and way.nic_bytes_per_ns < FAST_WIRE_BYTES_PER_NS:
        yield replace(way, nic_bytes_per_ns=FAST_WIRE_BYTES_PER_NS)
    yield replace(way, nics=2 * way.nics)


def _rdma(base: ClusterSpec, way: RdmaWay) -> Rival:
    costs = with_rdma(scaled_costs(base.gpu, base.model), way)
    spec = replace(base, tier="rdma", rdma=way, profile=None, costs=costs)
    return Rival("rdma", f"{way.name}, {way.nics} x {8 * way.nic_bytes_per_ns:g} Gb/s", spec)


def _hbm(base: ClusterSpec, factor: float) -> Rival:
    kv_bytes = round(base.server.hbm_kv_bytes * factor)
    spec = replace(base, tier="hbm", profile=None, server=replace(base.server, hbm_kv_bytes=kv_bytes))
    return Rival("hbm", f"{kv_bytes / GB:g} GB of HBM for KV per GPU", spec)

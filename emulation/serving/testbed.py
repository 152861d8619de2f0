"""A cluster by the names of what it is made of: model, GPU, way of RDMA, network cards. Knows files and scaling; runs nothing."""

from dataclasses import replace

from emulation.errors import InputError
from emulation.serving.hardware_files import load_gpu, load_model, load_rdma
from emulation.serving.scaling import scaled_costs, server_of, with_rdma
from emulation.serving.spec import GB, ClusterSpec, RdmaWay

_MOST_NICS = 1024
_LEAST, _MOST = 1e-3, 1e6  # GB of HBM per GPU, Gb/s per network card: so that times stay finite
BITS_PER_BYTE = 8


def cluster_on(
    model: str = "deepseek-v3.2",
    gpu: str = "h20",
    rdma: str = "sac",
    nics: int | None = None,
    nic_gbit: float | None = None,
    hbm_kv_gb: float | None = None,
) -> ClusterSpec:
    """A cluster (tier 'cxl', to be replaced) of such hardware: names of shipped files, or paths of .yaml files.

    nics, nic_gbit: network cards per server and the wire of each in Gb/s, in place of the way's; hbm_kv_gb: HBM for KV per GPU,
    in place of what weights leave. Raises InputError for what cannot be."""
    own_model, own_gpu, way = load_model(model), load_gpu(gpu), _wired(load_rdma(rdma), nics, nic_gbit)
    if hbm_kv_gb is not None and not _LEAST <= hbm_kv_gb <= _MOST:
        raise InputError(f"server: hbm_kv_gb={hbm_kv_gb} must be a number of GB from {_LEAST:g} to {_MOST:g}")
    kv_bytes = None if hbm_kv_gb is None else round(hbm_kv_gb * GB)
    costs = with_rdma(scaled_costs(own_gpu, own_model), way)
    server = server_of(own_gpu, own_model, kv_bytes)
    hot_buffer = max(ClusterSpec.hot_buffer, own_model.top_k)
    return ClusterSpec("cxl", hot_buffer=hot_buffer, server=server, model=own_model, gpu=own_gpu, rdma=way, costs=costs)


def _wired(way: RdmaWay, nics: int | None, nic_gbit: float | None) -> RdmaWay:
    if nics is not None:
        if not 1 <= nics <= _MOST_NICS:
            raise InputError(f"server: nics={nics} must be a whole number of at least 1, at most {_MOST_NICS}")
        way = replace(way, nics=nics)
    if nic_gbit is not None:
        if not _LEAST <= nic_gbit <= _MOST:
            raise InputError(f"server: nic_gbit={nic_gbit} must be a number of Gb/s from {_LEAST:g} to {_MOST:g}")
        way = replace(way, nic_bytes_per_ns=nic_gbit / BITS_PER_BYTE)
    return way

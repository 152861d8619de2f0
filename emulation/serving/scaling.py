"""What the engine's fitted costs become on another GPU and with another model: by published ratios, all of it assumed.
Knows EngineCosts, GpuSpec and ModelShape; runs nothing.

The costs are fitted on one GPU and one model (`GpuSpec()`, `ModelShape()`). What is bound by compute shrinks with the ratio of
dense operations, what is bound by memory with that of HBM's bandwidth, and what the host does stays. With the model grows
what is done per active weight, per byte of weights, per layer, or per byte of indexer keys."""

from dataclasses import fields, replace

from emulation.errors import InputError
from emulation.serving.spec import GB, EngineCosts, GpuSpec, ModelShape, RdmaWay, ServerSpec

FITTED_GPU, FITTED_MODEL = GpuSpec(), ModelShape()
WEIGHT_RANKS = 8  # GPUs over which the weights are spread, whatever the number of a server's GPUs (assumed)

# Of each cost: what of the GPU bounds it, and what of the model it grows with; None: neither.
BOUNDS: dict[str, tuple[str | None, str | None]] = {
    "step_base_ns": ("memory", "weight_bytes"),
    "sparse_step_ns": (None, "num_layers"),
    "step_request_ns": ("memory", "num_layers"),
    "step_context_token_ns": ("memory", "index_bytes"),
    "step_longest_token_ns": ("memory", "num_layers"),
    "prefill_token_ns": ("compute", "active_parameters"),
    "prefill_token_slope_ns": ("compute", "num_layers"),
    "step_spread": (None, None),
    "tokenise_token_ns": (None, None),
    "admission_ns": (None, None),
    "index_page_ns": (None, None),
    "prefetch_request_ns": (None, None),
    "prefetch_ops_per_entry": (None, None),
    "prefetch_hold": (None, None),
    "wait_spread": (None, None),
    "whole_hbm_share": (None, None),
}


def scaled_costs(gpu: GpuSpec, model: ModelShape, costs: EngineCosts | None = None) -> EngineCosts:
    """`costs`, or the fitted ones, on `gpu` with `model`."""
    costs = costs or EngineCosts()
    factors = {name: _gpu_factor(gpu, bound) * _model_factor(model, size) for name, (bound, size) in BOUNDS.items()}
    return replace(costs, **{name: getattr(costs, name) * factor for name, factor in factors.items() if factor != 1})


def with_rdma(costs: EngineCosts, way: RdmaWay) -> EngineCosts:
    """`costs` with what a way of RDMA says of moving prefixes; what it does not say stays as fitted."""
    own = {
        "prefetch_request_ns": way.request_ns,
        "prefetch_ops_per_entry": way.ops_per_entry,
        "prefetch_hold": way.hold,
    }
    return replace(costs, **{name: value for name, value in own.items() if value is not None})


def server_of(gpu: GpuSpec, model: ModelShape, hbm_kv_bytes: int | None = None) -> ServerSpec:
    """A server of such GPUs: of their HBM, KV gets what weights and the reserve leave, to whole GB, or `hbm_kv_bytes`.
    Raises InputError where they leave nothing."""
    if hbm_kv_bytes is not None:
        return ServerSpec(hbm_kv_bytes=hbm_kv_bytes)
    weight_bytes = model.weight_bytes / WEIGHT_RANKS
    left_bytes = round((gpu.hbm_bytes - weight_bytes - gpu.reserved_bytes) / GB) * GB
    if left_bytes <= 0:
        raise InputError(
            f"server: gpu {gpu.name} has hbm_bytes={gpu.hbm_bytes / GB:.0f} GB, of which {model.name}'s weights take "
            f"{weight_bytes / GB:.0f} GB (over {WEIGHT_RANKS} GPUs) and the reserve {gpu.reserved_bytes / GB:.0f} GB: nothing is "
            "left for KV; take a larger GPU, a smaller model or fewer bits per weight, or say what KV gets (hbm_kv)"
        )
    return ServerSpec(hbm_kv_bytes=left_bytes)


def unclassified_costs() -> set[str]:
    """Costs that nobody has said the bounds of; empty."""
    return {field.name for field in fields(EngineCosts)} ^ set(BOUNDS)


def _gpu_factor(gpu: GpuSpec, bound: str | None) -> float:
    if bound == "compute":
        return FITTED_GPU.tflops / gpu.tflops
    return FITTED_GPU.hbm_bytes_per_ns / gpu.hbm_bytes_per_ns if bound == "memory" else 1.0


def _model_factor(model: ModelShape, size: str | None) -> float:
    return float(getattr(model, size) / getattr(FITTED_MODEL, size)) if size else 1.0

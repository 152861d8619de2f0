"""What the serving model was fitted to, and whether a run lies within it. Knows ranges and settings; runs nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

from emulation.serving.spec import ENGINES, ClusterSpec, GpuSpec, ModelShape, RdmaWay, ServerSpec

Range = tuple[int, int]


@dataclass(frozen=True)
class FitRange:
    """The settings of the figures that the model is fitted to: SAC, Figures 9 to 11. Ranges are from the least to the most."""

    model: str = ModelShape().name
    gpu: str = GpuSpec().name
    gpus: int = ServerSpec().num_gpus
    rdma: str = RdmaWay().name
    contexts: Range = (16384, 131072)
    concurrencies: Range = (8, 192)
    outputs: Range = (1024, 1024)

    def words(self) -> str:
        """The ranges in a line."""
        contexts, concurrencies = (f"{low} to {high}" for low, high in (self.contexts, self.concurrencies))
        return (
            f"{contexts} tokens of context, {self.outputs[0]} of output, {concurrencies} in flight, {self.model} on "
            f"{self.gpus} {self.gpu}, RDMA as {self.rdma!r}"
        )


FIT_RANGE = FitRange()


def outside_fit(
    spec: ClusterSpec, contexts: Range | None, outputs: Range | None, concurrency: int | None
) -> tuple[str, ...]:
    """What of a run lies outside FIT_RANGE, in a few words each; ranges from the least to the most, None where none is set."""
    return tuple(_departures(spec, contexts, outputs, concurrency))


def _departures(
    spec: ClusterSpec, contexts: Range | None, outputs: Range | None, concurrency: int | None
) -> Iterator[str]:
    fit, in_flight = FIT_RANGE, (concurrency, concurrency) if concurrency else None
    ranges = (
        ("context", contexts, fit.contexts),
        ("output", outputs, fit.outputs),
        ("concurrency", in_flight, fit.concurrencies),
    )
    for name, run, fitted in ranges:
        if run is not None and (run[0] < fitted[0] or run[1] > fitted[1]):
            yield f"{name} {_span(run)} (fitted: {_span(fitted)})"
    if contexts and outputs and contexts[1] + outputs[1] > spec.model.max_context_tokens:
        yield f"up to {contexts[1] + outputs[1]} tokens, more than the {spec.model.max_context_tokens} of {spec.model.name}"
    if spec.model.name != fit.model:
        yield f"model {spec.model.name} (fitted: {fit.model})"
    if spec.gpu.name != fit.gpu:
        yield f"GPU {spec.gpu.name} (fitted: {fit.gpu})"
    if spec.server.num_gpus != fit.gpus:
        yield f"{spec.server.num_gpus} GPUs per server (fitted: {fit.gpus})"
    if spec.profile is not None and spec.policy.home != "hbm":
        yield f"profile {spec.profile.name} in place of the fitted one"
    if spec.engine != ENGINES[0]:
        yield f"engine {spec.engine} (fitted: {ENGINES[0]})"
    if spec.tier == "rdma" and spec.rdma != RdmaWay():
        yield f"RDMA as {spec.rdma.name!r} with {spec.rdma.nics} NICs (fitted: {fit.rdma!r} with {RdmaWay().nics})"


def _span(span: Range) -> str:
    return str(span[0]) if span[0] == span[1] else f"{span[0]} to {span[1]}"

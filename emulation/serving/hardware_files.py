"""Models, GPUs and ways of RDMA as files: their forms, each number beside its source. Knows figures and their bounds; what they
mean for a cluster's costs is scaling.py's."""

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, StrictFloat, StrictInt

from emulation.serving.shipped import read_shipped
from emulation.serving.spec import GpuSpec, ModelShape, RdmaWay
from emulation.timing.figure_file import (
    Figure,
    FilePart,
    NanosecondsFigure,
    NumBytesFigure,
    RateFigure,
    Text,
    number_rule,
    ruled,
    whole_rule,
)

_MOST = 10**7  # tokens, layers, bytes of a row: above any model
_MOST_PARAMETERS = 1e15
_MOST_NICS = 1024

Count = Annotated[StrictInt, Field(ge=1, le=_MOST), whole_rule(1, _MOST)]
NumNics = Annotated[StrictInt, Field(ge=1, le=_MOST_NICS), whole_rule(1, _MOST_NICS)]
Parameters = Annotated[
    StrictFloat, Field(ge=1e6, le=_MOST_PARAMETERS, allow_inf_nan=False), number_rule(1e6, _MOST_PARAMETERS)
]
Bits = Annotated[StrictFloat, Field(ge=1, le=64, allow_inf_nan=False), number_rule(1, 64)]
Tflops = Annotated[StrictFloat, Field(ge=1e-3, le=1e9, allow_inf_nan=False), number_rule(1e-3, 1e9)]
Share = Annotated[StrictFloat, Field(ge=0, le=1, allow_inf_nan=False), number_rule(0, 1)]
Operations = Annotated[StrictFloat, Field(ge=0, le=1e6, allow_inf_nan=False), number_rule(0, 1e6)]
WAYS = ("prefixes", "rows")


class CountFigure(Figure[Count]):
    """A number of layers, tokens, entries or bytes."""


class NumNicsFigure(Figure[NumNics]):
    """A number of network cards."""


class ParametersFigure(Figure[Parameters]):
    """A number of weights."""


class BitsFigure(Figure[Bits]):
    """Bits per weight."""


class TflopsFigure(Figure[Tflops]):
    """Dense bf16 operations, 10^12 per second."""


class ShareFigure(Figure[Share]):
    """A share, 0 to 1."""


class OperationsFigure(Figure[Operations]):
    """Operations per entry."""


class ModelFile(FilePart):
    """A model's sizes, as a file has them; the meaning of each figure stands in `spec.ModelShape`."""

    name: Text
    summary: Text
    num_layers: CountFigure
    row_bytes: CountFigure
    index_token_bytes: CountFigure
    top_k: CountFigure
    max_context_tokens: CountFigure
    total_parameters: ParametersFigure
    active_parameters: ParametersFigure
    weight_bits: BitsFigure


class GpuFile(FilePart):
    """A GPU's published figures, as a file has them; the meaning of each stands in `spec.GpuSpec`."""

    name: Text
    summary: Text
    hbm_bytes: NumBytesFigure
    hbm_bytes_per_ns: RateFigure
    tflops: TflopsFigure
    reserved_bytes: NumBytesFigure


class RdmaFile(FilePart):
    """A way of moving KV by RDMA, as a file has it; the meaning of each figure stands in `spec.RdmaWay`."""

    name: Text
    summary: Text
    reads: Annotated[Literal["prefixes", "rows"], ruled(f"must be one of {', '.join(WAYS)}")]
    profile: Text
    nics: NumNicsFigure
    nic_bytes_per_ns: RateFigure
    request_ns: NanosecondsFigure | None = None
    ops_per_entry: OperationsFigure | None = None
    hold: ShareFigure | None = None


@cache
def load_model(name_or_path: str) -> ModelShape:
    """The model of that name that comes with the package, or in that file (.yaml). Raises InputError."""
    return ModelShape(**_values(read_shipped("model", ModelFile, name_or_path)))


@cache
def load_gpu(name_or_path: str) -> GpuSpec:
    """The GPU of that name that comes with the package, or in that file (.yaml). Raises InputError."""
    return GpuSpec(**_values(read_shipped("gpu", GpuFile, name_or_path)))


@cache
def load_rdma(name_or_path: str) -> RdmaWay:
    """The way of RDMA of that name that comes with the package, or in that file (.yaml). Raises InputError."""
    return RdmaWay(**_values(read_shipped("rdma", RdmaFile, name_or_path)))


def model_schema() -> dict[str, Any]:
    """The JSON Schema of a model's file, for editors."""
    return ModelFile.model_json_schema(mode="validation")


def gpu_schema() -> dict[str, Any]:
    """The JSON Schema of a GPU's file."""
    return GpuFile.model_json_schema(mode="validation")


def rdma_schema() -> dict[str, Any]:
    """The JSON Schema of a file of a way of RDMA."""
    return RdmaFile.model_json_schema(mode="validation")


def _values(file: FilePart) -> dict[str, Any]:
    """The fields of a file, figures by their values; its summary is for people."""
    return {name: part.value if isinstance(part, Figure) else part for name, part in file if name != "summary"}

"""A profile's file: its model. Knows which figures a profile has and their bounds; how a file is read is figure_file.py's.

A file holds `name`, `tier`, `read_by`, `summary` and figures. Bandwidths are in bytes per ns, which is GB/s."""

from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, StrictFloat, StrictInt

from emulation.timing.figure_file import (
    Figure,
    FilePart,
    NanosecondsFigure,
    NumBytesFigure,
    RateFigure,
    Text,
    mapping,
    parse_figures,
    ruled,
    sources,
    whole_rule,
)

Tier = Literal["dram", "numa", "cxl", "rdma"]
Reader = Literal["cpu", "gpu"]

_MOST_DEVICES = 4096  # a fabric of CXL 3.0 has no more nodes; each device is a link of the model
_MOST_FACTOR = 1e6

TIERS: tuple[str, ...] = get_args(Tier)
READERS: tuple[str, ...] = get_args(Reader)

_CURVE_RULE = (
    f"must be a list of [load 0..1, factor >= 1, at most {_MOST_FACTOR:g}], both rising, that starts at [0, 1]"
)


def _require_rising(curve: list[list[float]]) -> list[list[float]]:
    rising = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(curve))
    if not rising or curve[0] != [0, 1] or curve[-1][0] > 1:
        raise ValueError(_CURVE_RULE)
    return curve


NumDevices = Annotated[StrictInt, Field(ge=1, le=_MOST_DEVICES), whole_rule(1, _MOST_DEVICES)]
_Number = Annotated[StrictFloat, Field(ge=0, le=_MOST_FACTOR, allow_inf_nan=False)]
_Point = Annotated[list[_Number], Field(strict=True, min_length=2, max_length=2)]
Curve = Annotated[list[_Point], Field(strict=True, min_length=1), AfterValidator(_require_rising), ruled(_CURVE_RULE)]


class NumDevicesFigure(Figure[NumDevices]):
    """A number of devices."""


class CurveFigure(Figure[Curve]):
    """Points of (load by others 0..1, factor on the latency)."""


class LinkFigures(FilePart):
    """What one link carries in each direction, in bytes per ns."""

    read_bytes_per_ns: RateFigure
    write_bytes_per_ns: RateFigure


class PublishFigures(FilePart):
    """Time until what a host wrote is visible to the others, by what its CPU does for that, in ns."""

    non_temporal: NanosecondsFigure
    clflush: NanosecondsFigure
    uncached: NanosecondsFigure


class FreshReadFigures(FilePart):
    """Time of a read that is sure to bring what others wrote, by what the CPU does for that, in ns."""

    clflush: NanosecondsFigure
    uncached: NanosecondsFigure


class CoherenceFigures(FilePart):
    """What software's coherence takes for `num_bytes` at once, the transfer itself included."""

    num_bytes: NumBytesFigure
    publish_ns: Annotated[PublishFigures, mapping(lambda: PublishFigures)]
    fresh_read_ns: Annotated[FreshReadFigures, mapping(lambda: FreshReadFigures)]


_Link = Annotated[LinkFigures, mapping(lambda: LinkFigures)]


class ProfileFile(FilePart):
    """One reader's view of one tier, as a file has it; the meaning of each figure stands in `profile.Profile`."""

    name: Text
    tier: Annotated[Tier, ruled(f"must be one of {', '.join(TIERS)}")]
    read_by: Annotated[Reader, ruled(f"must be one of {', '.join(READERS)}")]
    summary: Text
    read_latency_ns: NanosecondsFigure
    write_latency_ns: NanosecondsFigure
    setup_ns: NanosecondsFigure
    floor_ns: NanosecondsFigure
    request_ns: NanosecondsFigure
    op_ns: NanosecondsFigure
    outstanding_bytes: NumBytesFigure
    num_devices: NumDevicesFigure
    reader: _Link
    adapter: _Link
    port: _Link
    device: _Link
    loaded_latency: CurveFigure
    subject: Text | None = None
    coherence: Annotated[CoherenceFigures, mapping(lambda: CoherenceFigures)] | None = None

    def sources(self) -> dict[str, str]:
        """The source of each figure, by its dotted name."""
        return dict(sources(self))


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a profile file, for editors."""
    return ProfileFile.model_json_schema(mode="validation")


def parse_file(text: str, owner: str) -> ProfileFile:
    """The checked file from YAML text; `owner` names it in errors. Raises InputError with every finding, one per line."""
    return parse_figures(ProfileFile, text, f"profile {owner}")

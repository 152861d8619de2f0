"""A profile's file: its model, and its text checked in one go. Knows YAML's keys and pydantic's findings, no clock and no link.

A file holds `name`, `tier`, `read_by`, `summary` and figures; a figure is `{value: 220, source: "arXiv ..."}`,
and one that nobody published says `source: assumed ...`. Bandwidths are in bytes per ns, which is GB/s.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Annotated, Any, Generic, Literal, NoReturn, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from emulation.errors import InputError
from qemu_configs.yaml_text import YamlError, read_yaml, shown

Tier = Literal["dram", "numa", "cxl", "rdma"]
Reader = Literal["cpu", "gpu"]

_MOST_CHARACTERS = 10_000
_MOST_NS = 10**12  # above a quarter of an hour no access takes
_MOST_BYTES = 2**53  # exact as a float
_MOST_DEVICES = 4096  # a fabric of CXL 3.0 has no more nodes; each device is a link of the model
_LEAST_RATE, _MOST_RATE = 1e-6, 1e12  # 1 KB/s to far above any link, so that times and rates stay finite
_MOST_FACTOR = 1e6

TIERS: tuple[str, ...] = get_args(Tier)
READERS: tuple[str, ...] = get_args(Reader)

_RULE = "rule"  # pydantic's type of our own findings
_SOURCE_RULE = "must be text that says where the value is from; where nobody published it, source: assumed"
_FIGURE_RULE = "must be {value: ..., source: ...}; where nobody published it, source: assumed"
_RATE_RULE = f"must be a number above 0 (bytes per ns, which is GB/s), from {_LEAST_RATE:g} to {_MOST_RATE:g}"
_CURVE_RULE = (
    f"must be a list of [load 0..1, factor >= 1, at most {_MOST_FACTOR:g}], both rising, that starts at [0, 1]"
)

T = TypeVar("T")


def _break(rule: str) -> NoReturn:
    raise PydanticCustomError(_RULE, "{rule}", {"rule": rule})


def _ruled(rule: str) -> WrapValidator:
    """Whatever pydantic finds wrong with a value, the error names the one rule that it breaks."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            _break(rule)

    return WrapValidator(validate)


def _require_rising(curve: list[list[float]]) -> list[list[float]]:
    rising = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(curve))
    if not rising or curve[0] != [0, 1] or curve[-1][0] > 1:
        raise ValueError(_CURVE_RULE)
    return curve


def _mapping(model: Callable[[], type[BaseModel]]) -> BeforeValidator:
    """A part that is no mapping is told which keys it must hold."""

    def require(part: object) -> object:
        return part if isinstance(part, dict) else _break(f"must hold {' and '.join(model().model_fields)}")

    return BeforeValidator(require)


Text = Annotated[
    StrictStr, Field(max_length=_MOST_CHARACTERS), _ruled(f"must be text of at most {_MOST_CHARACTERS} characters")
]
Source = Annotated[StrictStr, Field(min_length=1, max_length=_MOST_CHARACTERS), _ruled(_SOURCE_RULE)]
Nanoseconds = Annotated[
    StrictInt, Field(ge=0, le=_MOST_NS), _ruled(f"must be a whole number of at least 0, at most {_MOST_NS}")
]
NumBytes = Annotated[
    StrictInt, Field(ge=1, le=_MOST_BYTES), _ruled(f"must be a whole number of at least 1, at most {_MOST_BYTES}")
]
NumDevices = Annotated[
    StrictInt, Field(ge=1, le=_MOST_DEVICES), _ruled(f"must be a whole number of at least 1, at most {_MOST_DEVICES}")
]
Rate = Annotated[StrictFloat, Field(ge=_LEAST_RATE, le=_MOST_RATE, allow_inf_nan=False), _ruled(_RATE_RULE)]
_Number = Annotated[StrictFloat, Field(ge=0, le=_MOST_FACTOR, allow_inf_nan=False)]
_Point = Annotated[list[_Number], Field(strict=True, min_length=2, max_length=2)]
Curve = Annotated[list[_Point], Field(strict=True, min_length=1), AfterValidator(_require_rising), _ruled(_CURVE_RULE)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(_Part, Generic[T]):
    """A number of a tier, beside its source."""

    value: T
    source: Source

    @model_validator(mode="wrap")
    @classmethod
    def _require_both(cls, figure: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """One finding about the figure where it isn't made of the two; else those about its value and source."""
        try:
            return handler(figure)
        except ValidationError as exc:
            if all(error["type"] == _RULE for error in exc.errors(include_url=False)):
                raise
            _break(_FIGURE_RULE)


class NanosecondsFigure(Figure[Nanoseconds]):
    """A time, in ns."""


class NumBytesFigure(Figure[NumBytes]):
    """A number of bytes."""


class NumDevicesFigure(Figure[NumDevices]):
    """A number of devices."""


class RateFigure(Figure[Rate]):
    """A bandwidth, in bytes per ns, which is GB/s."""


class CurveFigure(Figure[Curve]):
    """Points of (load by others 0..1, factor on the latency)."""


class LinkFigures(_Part):
    """What one link carries in each direction, in bytes per ns."""

    read_bytes_per_ns: RateFigure
    write_bytes_per_ns: RateFigure


class PublishFigures(_Part):
    """Time until what a host wrote is visible to the others, by what its CPU does for that, in ns."""

    non_temporal: NanosecondsFigure
    clflush: NanosecondsFigure
    uncached: NanosecondsFigure


class FreshReadFigures(_Part):
    """Time of a read that is sure to bring what others wrote, by what the CPU does for that, in ns."""

    clflush: NanosecondsFigure
    uncached: NanosecondsFigure


class CoherenceFigures(_Part):
    """What software's coherence takes for `num_bytes` at once, the transfer itself included."""

    num_bytes: NumBytesFigure
    publish_ns: Annotated[PublishFigures, _mapping(lambda: PublishFigures)]
    fresh_read_ns: Annotated[FreshReadFigures, _mapping(lambda: FreshReadFigures)]


_Link = Annotated[LinkFigures, _mapping(lambda: LinkFigures)]


class ProfileFile(_Part):
    """One reader's view of one tier, as a file has it; the meaning of each figure stands in `profile.Profile`."""

    name: Text
    tier: Annotated[Tier, _ruled(f"must be one of {', '.join(TIERS)}")]
    read_by: Annotated[Reader, _ruled(f"must be one of {', '.join(READERS)}")]
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
    coherence: Annotated[CoherenceFigures, _mapping(lambda: CoherenceFigures)] | None = None

    def sources(self) -> dict[str, str]:
        """The source of each figure, by its dotted name."""
        return dict(_sources("", self))


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a profile file, for editors."""
    return ProfileFile.model_json_schema(mode="validation")


def parse_file(text: str, owner: str) -> ProfileFile:
    """The checked file from YAML text; `owner` names it in errors. Raises InputError with every finding, one per line."""
    try:
        tree, problems = read_yaml(text)
    except YamlError as exc:
        raise InputError(f"profile {owner}: {exc}") from exc
    if not isinstance(tree, dict):
        keys = ", ".join(ProfileFile.model_fields)
        raise InputError(f"profile {owner}: holds {type(tree).__name__}, needs keys: {keys}")
    try:
        profile = ProfileFile.model_validate(tree)
    except ValidationError as exc:
        problems += [_worded(error) for error in sorted(exc.errors(include_url=False), key=_place)]
    if problems:
        raise InputError("\n".join(f"profile {owner}: {problem}" for problem in problems))
    return profile


def _sources(prefix: str, part: BaseModel) -> Iterator[tuple[str, str]]:
    for name, value in part:
        if isinstance(value, Figure):
            yield prefix + name, value.source
        elif isinstance(value, BaseModel):
            yield from _sources(f"{prefix}{name}.", value)


def _place(error: ErrorDetails) -> tuple[int, int]:
    """Where a finding is told: keys of the file that are unknown or missing come first, then each part's findings."""
    rank = {"missing": 1, _RULE: 2}.get(error["type"], 0)
    part = list(ProfileFile.model_fields).index(str(error["loc"][0])) if len(error["loc"]) > 1 or rank == 2 else -1
    return part, rank


def _worded(error: ErrorDetails) -> str:
    loc, value = error["loc"], shown(error["input"])
    match error["type"]:
        case "missing":
            return f"{_dotted(loc)}=None is missing; give it"
        case "extra_forbidden":
            return f"{_dotted(loc)}={value} {_unknown(loc[:-1])}"
        case "invalid_key":  # no text: the input is the key, and the place's last step is the key too
            return f"{_dotted((*loc[:-1], value))} {_unknown(loc[:-1])}"
        case "string_unicode":  # a key with half of a surrogate pair; pydantic leaves it out of the place
            return f"{_dotted((*loc, value))} {_unknown(loc)}"
        case _:
            return f"{_dotted(loc[:-1] if loc[-1] == 'value' else loc)}={value} {error['ctx']['rule']}"


def _unknown(above: tuple[int | str, ...]) -> str:
    return f"is an unknown key; known are {', '.join(_part_at(above).model_fields)}"


def _part_at(place: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of the part of a file at `place`."""
    model: type[BaseModel] = ProfileFile
    for step in place:
        model = next(_models(model.model_fields[str(step)].annotation))
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _dotted(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(step) for step in loc)

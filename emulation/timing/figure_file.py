"""Files of figures: each number beside its source, a file checked in one go. Knows YAML and pydantic's findings, and how they are
worded; knows neither tiers nor models.

A figure is `{value: 220, source: "arXiv ..."}`; one that nobody published says `source: assumed ...`. A kind of file is a
`FilePart` with figures in its fields; `parse_figures` reads one and tells everything that is wrong with it."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Generic, NoReturn, Self, TypeVar, get_args

from pydantic import (
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

_MOST_CHARACTERS = 10_000
_MOST_NS = 10**12  # above a quarter of an hour no access takes
_MOST_BYTES = 2**53  # exact as a float
_LEAST_RATE, _MOST_RATE = 1e-6, 1e12  # 1 KB/s to far above any link, so that times and rates stay finite

_RULE = "rule"  # pydantic's type of our own findings
_SOURCE_RULE = "must be text that says where the value is from; where nobody published it, source: assumed"
_FIGURE_RULE = "must be {value: ..., source: ...}; where nobody published it, source: assumed"
_RATE_RULE = f"must be a number above 0 (bytes per ns, which is GB/s), from {_LEAST_RATE:g} to {_MOST_RATE:g}"

T = TypeVar("T")
File = TypeVar("File", bound="FilePart")


def break_rule(rule: str) -> NoReturn:
    """End a validation with `rule` as its finding."""
    raise PydanticCustomError(_RULE, "{rule}", {"rule": rule})


def ruled(rule: str) -> WrapValidator:
    """Whatever pydantic finds wrong with a value, the error names the one rule that it breaks."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            break_rule(rule)

    return WrapValidator(validate)


def mapping(model: Callable[[], type[BaseModel]]) -> BeforeValidator:
    """A part that is no mapping is told which keys it must hold."""

    def require(part: object) -> object:
        return part if isinstance(part, dict) else break_rule(f"must hold {' and '.join(model().model_fields)}")

    return BeforeValidator(require)


def whole_rule(least: int, most: int) -> WrapValidator:
    """As `ruled`, for a whole number from `least` to `most`."""
    return ruled(f"must be a whole number of at least {least}, at most {most}")


def number_rule(least: float, most: float) -> WrapValidator:
    """As `ruled`, for a number from `least` to `most`."""
    return ruled(f"must be a number from {least:g} to {most:g}")


Text = Annotated[
    StrictStr, Field(max_length=_MOST_CHARACTERS), ruled(f"must be text of at most {_MOST_CHARACTERS} characters")
]
Source = Annotated[StrictStr, Field(min_length=1, max_length=_MOST_CHARACTERS), ruled(_SOURCE_RULE)]
Nanoseconds = Annotated[StrictInt, Field(ge=0, le=_MOST_NS), whole_rule(0, _MOST_NS)]
NumBytes = Annotated[StrictInt, Field(ge=1, le=_MOST_BYTES), whole_rule(1, _MOST_BYTES)]
Rate = Annotated[StrictFloat, Field(ge=_LEAST_RATE, le=_MOST_RATE, allow_inf_nan=False), ruled(_RATE_RULE)]


class FilePart(BaseModel):
    """A file of figures, or a part of one: its keys, and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Figure(FilePart, Generic[T]):
    """A number, beside its source."""

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
            break_rule(_FIGURE_RULE)


class NanosecondsFigure(Figure[Nanoseconds]):
    """A time, in ns."""


class NumBytesFigure(Figure[NumBytes]):
    """A number of bytes."""


class RateFigure(Figure[Rate]):
    """A bandwidth, in bytes per ns, which is GB/s."""


def sources(part: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, source) of each figure of a file."""
    for name, value in part:
        if isinstance(value, Figure):
            yield prefix + name, value.source
        elif isinstance(value, BaseModel):
            yield from sources(value, f"{prefix}{name}.")


def parse_figures(kind: type[File], text: str, owner: str) -> File:
    """The checked file from YAML text; `owner` names it in errors. Raises InputError with every finding, one per line."""
    try:
        tree, problems = read_yaml(text)
    except YamlError as exc:
        raise InputError(f"{owner}: {exc}") from exc
    if not isinstance(tree, dict):
        raise InputError(f"{owner}: holds {_held(tree)}, needs keys: {', '.join(kind.model_fields)}")
    try:
        file = kind.model_validate(tree)
    except ValidationError as exc:
        findings = sorted(exc.errors(include_url=False), key=lambda error: _place(kind, error))
        problems += [_worded(kind, error) for error in findings]
    if problems:
        raise InputError("\n".join(f"{owner}: {problem}" for problem in problems))
    return file


def _held(tree: object) -> str:
    return "nothing" if tree is None else "a list" if isinstance(tree, list) else shown(tree)


def _place(kind: type[BaseModel], error: ErrorDetails) -> tuple[int, int]:
    """Where a finding is told: keys of the file that are unknown or missing come first, then each part's findings."""
    rank = {"missing": 1, _RULE: 2}.get(error["type"], 0)
    part = list(kind.model_fields).index(str(error["loc"][0])) if len(error["loc"]) > 1 or rank == 2 else -1
    return part, rank


def _worded(kind: type[BaseModel], error: ErrorDetails) -> str:
    loc, value = error["loc"], shown(error["input"])
    match error["type"]:
        case "missing":
            return f"{_dotted(loc)} is missing; give it"
        case "extra_forbidden":
            return f"{_dotted(loc)}={value} {_unknown(kind, loc[:-1])}"
        case _:
            return f"{_dotted(loc[:-1] if loc[-1] == 'value' else loc)}={value} {error['ctx']['rule']}"


def _unknown(kind: type[BaseModel], above: tuple[int | str, ...]) -> str:
    return f"is an unknown key; known are {', '.join(_part_at(kind, above).model_fields)}"


def _part_at(kind: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of the part of a file at `place`."""
    for step in place:
        kind = next(_models(kind.model_fields[str(step)].annotation))
    return kind


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _dotted(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(step) for step in loc)

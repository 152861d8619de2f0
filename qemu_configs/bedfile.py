"""Reads bed files: YAML to a checked Topology, or every problem of the file at once.

Knows pydantic's findings; YAML is yaml_text.py's, the model topology.py's, the rules rules.py's. A file's unknown keys and
unreadable numbers are set aside, so that what is left can be checked by the rules in the same go.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from qemu_configs.errors import BedFileError
from qemu_configs.file_paths import from_file, is_path
from qemu_configs.rules.bed import Machine, find_problems
from qemu_configs.topology import UNREADABLE_IS_ZERO, Topology
from qemu_configs.yaml_text import YamlError, read_yaml, shown

STOCK_FOLDER = Path(__file__).parent / "topologies"

_SINGULAR = {
    "hosts": "host",
    "bridges": "bridge",
    "switches": "switch",
    "devices": "device",
    "windows": "window",
    "regions": "region",
    "numa_nodes": "numa node",
    "pools": "pool",
}
# Pydantic's kinds of findings in our words.
_RULES = {
    "string_type": "is not text (put it in quotes)",
    "int_type": "is not a whole number (write one, without quotes)",
    "bool_type": "is neither true nor false (write one of them)",
    "tuple_type": "is not a list (write it in brackets: [a, b])",
    "model_type": "does not hold keys (write {name: ...})",
}


def stock_names() -> list[str]:
    """Names of the topologies that come with the package, sorted."""
    return sorted(path.stem for path in STOCK_FOLDER.glob("*.yaml"))


def find(name_or_path: str | Path) -> Path:
    """The file meant by a stock name (`direct`) or a path. Raises BedFileError if there is neither."""
    stock = STOCK_FOLDER / f"{name_or_path}.yaml"
    if str(name_or_path) in stock_names():
        return stock
    path = Path(name_or_path)
    if os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises for a name too long for a file)
        return path
    is_folder = os.path.isdir(path)  # noqa: PTH112 (as above)
    why = "is a folder, not a bed file" if is_folder else "is neither a file nor a stock topology"
    raise BedFileError(str(name_or_path), [f"bed file: {why} (stock: {', '.join(stock_names())})"])


def load(name_or_path: str | Path, machine: Machine | None = None) -> Topology:
    """Read and check a bed file, given by path or stock name, and whether `machine` can hold it where one is given.

    Raises BedFileError with every problem found."""
    path = find(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        byte = f"byte {exc.object[exc.start]:#04x} at {exc.start}"
        raise BedFileError(str(path), [f"bed file: is no UTF-8 ({byte}; save it as UTF-8)"]) from exc
    except OSError as exc:
        raise BedFileError(str(path), [f"bed file: cannot be read ({exc.strerror}; name one that can)"]) from exc
    return parse(text, str(path), machine, path.parent)


def parse(text: str, path: str = "<text>", machine: Machine | None = None, folder: Path | None = None) -> Topology:
    """Check the text of a bed file as `load` does; `path` is what errors call it, `folder` where relative paths in it start
    (by default where the process is)."""
    document, problems = _read_yaml(text, path)
    return check_document(document, path, machine, folder, problems)


def check_document(
    document: dict[str, Any],
    path: str = "<document>",
    machine: Machine | None = None,
    folder: Path | None = None,
    problems: Sequence[str] = (),
) -> Topology:
    """Check the values of a bed file as `load` does; what cannot be used is taken out of `document`. `path` and `folder` as
    for `parse`; problems: those that reading it had."""
    _place_paths(document, folder or Path())
    try:
        topology = Topology.model_validate(document)
    except ValidationError as exc:
        problems = [*problems, *(_reword(error, document) for error in exc.errors())]
        problems += _problems_of_the_rest(document, exc, machine)
        raise BedFileError(path, problems) from None
    problems = [*problems, *find_problems(topology, machine)]
    if problems:
        raise BedFileError(path, problems)
    return topology


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a bed file, for editors."""
    return Topology.model_json_schema(by_alias=True, mode="validation")


def _read_yaml(text: str, path: str) -> tuple[dict[str, Any], list[str]]:
    try:
        document, problems = read_yaml(text)
    except YamlError as exc:
        raise BedFileError(path, [str(exc) if exc.line else f"bed file: {exc}"]) from None
    if not isinstance(document, dict):
        found = "nothing" if document is None else "a list" if isinstance(document, list) else shown(document)
        raise BedFileError(path, [f"bed file: holds {found} where keys are expected (start with name, devices, hosts)"])
    return document, problems


def _place_paths(document: dict[str, Any], folder: Path) -> None:
    """A profile's path starts from the bed file's folder."""
    devices = document.get("devices")
    for device in devices if isinstance(devices, list) else ():
        profile = device.get("profile") if isinstance(device, dict) else None
        if isinstance(profile, str) and is_path(profile):
            device["profile"] = str(from_file(folder, profile))


def _problems_of_the_rest(document: dict[str, Any], faults: ValidationError, machine: Machine | None) -> list[str]:
    """Apply the rules to what is sound in a faulty document; nothing, where a fault leaves too little to judge."""
    for error in faults.errors():
        _set_aside(document, error)
    try:
        return find_problems(Topology.model_validate(document, context=UNREADABLE_IS_ZERO), machine)
    except ValidationError:
        return ["bed file: rules between its parts were not checked (mend the above, then check again)"]


def _set_aside(document: dict[str, Any], error: ErrorDetails) -> None:
    """Take an unknown key out of the document; put 0 where a number is missing or could not be read."""
    *above, last = error["loc"]
    place = _at(document, tuple(above))
    if error["type"] == "extra_forbidden":
        place.pop(last, None)  # aliases (`*windows`) make one place of several
    elif error["type"] in ("int_type", "value_error", "missing"):
        place[last] = 0


def _at(document: Any, loc: tuple[int | str, ...]) -> Any:
    for step in loc:
        document = document[step]
    return document


def _reword(error: ErrorDetails, document: dict[str, Any]) -> str:
    *above, field = error["loc"]
    owner = _owner(document, tuple(above))
    value = error["input"]
    match error["type"]:
        case "missing":
            return f"{owner}: {field} is missing (add it)"
        case "extra_forbidden":
            return f"{owner}: {field}={shown(value)} is not a known key (`cxlbed schema` lists them)"
        case "value_error":
            return f"{owner}: {field}={shown(value)} {error['ctx']['error']}"
        case "literal_error":
            return f"{owner}: {field}={shown(value)} is none of {error['ctx']['expected'].replace(' or ', ', ')} (write one)"
        case kind:
            return (
                f"{owner}: {field}={shown(value)} {_RULES.get(kind, 'does not fit (`cxlbed schema` says what does)')}"
            )


def _owner(document: Any, loc: tuple[int | str, ...]) -> str:
    """Name the part at `loc` as the rules do: ("hosts", 0, "windows", 1) -> host 'a': window 'w1'."""
    words: list[str] = []
    kind = ""
    for step in loc:
        document = document[step]
        if isinstance(step, int):
            name = document.get("name") if isinstance(document, Mapping) else None
            called = f"'{name}'" if isinstance(name, str) else f"number {step + 1}"
            words.append(f"{_SINGULAR.get(kind, kind)} {called}")
        else:
            kind = step
            if isinstance(document, Mapping):
                words.append(kind)
    return ": ".join(words) or "topology"

"""Files of figures that come with the package, by kind and name: models, GPUs, ways of RDMA. Knows names and folders, not what is
in a file."""

import os
from pathlib import Path
from typing import Literal, TypeVar

from emulation.errors import InputError
from emulation.files import read_text
from emulation.timing.figure_file import FilePart, parse_figures

Kind = Literal["model", "gpu", "rdma"]
DATA_FOLDER = Path(__file__).parent / "data"
_FOLDERS: dict[Kind, Path] = {
    "model": DATA_FOLDER / "models",
    "gpu": DATA_FOLDER / "gpus",
    "rdma": DATA_FOLDER / "rdma",
}

File = TypeVar("File", bound=FilePart)


def shipped_names(kind: Kind) -> list[str]:
    """Names of the files of a kind that come with the package."""
    return sorted(path.stem for path in _FOLDERS[kind].glob("*.yaml"))


def read_shipped(kind: Kind, form: type[File], name_or_path: str) -> File:
    """The checked file of that name, in any case of letters, or at that path (it ends in .yaml). Raises InputError where there is
    none, or with every finding in the file."""
    path = Path(name_or_path) if name_or_path.endswith(".yaml") else _FOLDERS[kind] / f"{name_or_path.lower()}.yaml"
    if not name_or_path.endswith(".yaml") and not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises for a long name)
        known = ", ".join(shipped_names(kind))
        raise InputError(f"{kind}: name={name_or_path!r} is unknown; take one of {known}, or the path of a .yaml file")
    return parse_figures(form, read_text(f"{kind} file", path), f"{kind} file {path}")

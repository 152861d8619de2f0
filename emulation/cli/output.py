"""Where a verb's result goes for machines: to `--json FILE`, or `-` for standard output."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from emulation.errors import InputError
from emulation.files import write_whole


def _file(path: Path | None) -> Path | None:
    """The path as it is. Raises InputError for a folder, before the verb does anything."""
    if path is not None and path.is_dir():
        raise InputError(f"--json {path}: is a folder; name a file, or '-' for standard output")
    return path


JsonOption = Annotated[
    Path | None,
    typer.Option("--json", callback=_file, help="Write the result as JSON to this file ('-': standard output)."),
]


def write_json(path: Path | None, result: Any) -> None:
    """Write `result` to `path`, whole or not at all; nothing where `path` is None. Raises InputError where that cannot be."""
    if path is None:
        return
    text = json.dumps(result, indent=2) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"--json {path}: cannot be written ({error.strerror}); name another file") from error

"""Where results go: for machines to `--json FILE`, or `-` for standard output; else to people."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emulation.errors import InputError
from emulation.files import write_whole

if TYPE_CHECKING:
    from rich.table import Table

JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the result as JSON to this file ('-': standard output).")
]


def write_json(path: Path | None, result: Any) -> None:
    """Write `result` to `path`, whole or not at all; nothing where `path` is None. Raises InputError where that cannot be."""
    if path is None:
        return
    text = json.dumps(result, indent=2) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    if path.is_dir():
        raise InputError(f"--json {path}: is a folder; name a file, or '-' for standard output")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"--json {path}: cannot be written ({error.strerror}); name another file") from error


def show(json_path: Path | None, *shown: "Table | str") -> None:
    """Show tables and lines, unless standard output carries the JSON."""
    from emulation.report.tables import print_table

    if str(json_path) == "-":
        return
    for one in shown:
        if isinstance(one, str):
            typer.echo(one)
        else:
            print_table(one)

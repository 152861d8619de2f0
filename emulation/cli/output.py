"""Where results for machines go: `--json FILE`, or `-` for standard output."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the result as JSON to this file ('-': standard output).")
]


def write_json(path: Path | None, result: Any) -> None:
    """Write `result` to `path`, whole or not at all; nothing where `path` is None."""
    if path is None:
        return
    text = json.dumps(result, indent=2) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)

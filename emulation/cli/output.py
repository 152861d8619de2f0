"""Where a verb's results go: to `--json FILE`, or `-` for standard output; to folders and pictures that options name.

A place is tried before the verb does anything: what took minutes or a boot is not lost to a path."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from emulation.errors import InputError
from emulation.files import write_out

STANDARD_OUTPUT = Path("-")


def file_option(option: str, fix: str = "name another file") -> Callable[[Path | None], Path | None]:
    """A callback for typer: a path that a file can be written to, its folder made. Raises InputError, with `fix`."""

    def tried(path: Path | None) -> Path | None:
        if path is not None and path != STANDARD_OUTPUT:
            _try_file(option, path, fix)
        return path

    return tried


def folder_option(option: str) -> Callable[[Path | None], Path | None]:
    """A callback for typer: a folder, made where there is none, that files can be written to. Raises InputError."""

    def tried(path: Path | None) -> Path | None:
        if path is not None:
            _try_folder(option, path, path, "name another folder")
        return path

    return tried


JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        callback=file_option("--json", "name a file, or '-' for standard output"),
        help="Write the result as JSON to this file ('-': standard output).",
    ),
]


def write_json(path: Path | None, result: Any) -> None:
    """Write `result` to `path`, whole or not at all; nothing where `path` is None. Raises InputError where that cannot be."""
    if path is None:
        return
    text = json.dumps(result, indent=2) + "\n"
    if path == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_out(path, text)
    except OSError as error:
        raise InputError(f"--json {path}: cannot be written ({error.strerror}); name another file") from error


def _try_file(option: str, path: Path, fix: str) -> None:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a device or a pipe, written into where it is
            if not os.access(path, os.W_OK):
                raise InputError(f"{option} {path}: may not be written; {fix}")
            return
        _try_folder(option, path, path.resolve().parent, fix)
        if path.is_dir():
            raise InputError(f"{option} {path}: is a folder; {fix}")
        path.stat()
    except FileNotFoundError:
        return
    except (OSError, RuntimeError) as error:  # a name too long, a link to itself
        raise InputError(f"{option} {path}: cannot be written ({_reason(error)}); {fix}") from error


def _try_folder(option: str, path: Path, folder: Path, fix: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option} {path}: folder {folder} cannot be made ({error.strerror}); {fix}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{option} {path}: folder {folder} may not be written to; {fix}")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "it leads to itself"

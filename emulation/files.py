"""Files that are written whole or not at all, and files of text that users name. Knows paths; nothing of what is in them."""

import os
import stat
import threading
from pathlib import Path

from emulation.errors import InputError


def write_whole(path: Path, content: str | bytes) -> None:
    """Put `content` at `path` in one step: a reader finds the old file or the new one, and a failure leaves the old one.
    Several writers at once are safe; the last one stays. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        fresh.write_bytes(content.encode() if isinstance(content, str) else content)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def write_out(path: Path, content: str | bytes) -> None:
    """Put `content` where a user said: whole, as `write_whole`, at a file or at what a link names; into a device or a pipe, which
    stays what it is. Raises OSError, at once for a pipe that nobody reads."""
    raw = content.encode() if isinstance(content, str) else content
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        is_file = True
    if is_file:
        write_whole(path.resolve(), raw)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(raw)


def read_text(owner: str, path: Path) -> str:
    """The text of a file that a user named; `owner` says what it is of. Raises InputError for what cannot be read, is not UTF-8, or
    is a device or a pipe, which may never end."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise InputError(f"{owner} {path}: is a device or a pipe; name a file that can be read")
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise InputError(f"{owner} {path}: {exc.strerror or exc}; name a file that can be read") from exc
    except ValueError as exc:  # not UTF-8, or a path with a NUL
        raise InputError(f"{owner} {path}: {exc}; name a text file in UTF-8") from exc

"""Files that are written whole or not at all. Knows paths; nothing of what is in them."""

import os
import stat
import threading
from pathlib import Path


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

"""Files that are written whole or not at all. Knows paths; nothing of what is in them."""

import os
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

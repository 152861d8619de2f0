"""Progress of anything over two seconds, on stderr: a line that changes on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from emulation.say import Say


@contextmanager
def progress() -> Iterator[Say]:
    """A function that shows what is being done now; safe from several threads."""
    started = time.monotonic()
    if not sys.stderr.isatty():
        yield lambda text: print(f"[{time.monotonic() - started:6.1f} s] {text}", file=sys.stderr, flush=True)  # noqa: T201
        return
    console = Console(stderr=True)
    with console.status("starting") as line:

        def show(text: str) -> None:
            console.print(f"[dim]{time.monotonic() - started:6.1f} s[/dim] {escape(text)}", highlight=False)
            line.update(escape(text))

        yield show

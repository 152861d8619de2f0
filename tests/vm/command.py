"""The command as its users run it, in an environment of its own, and what it left behind."""

import os
import sys
from pathlib import Path

# A job of the main job's shape, small enough for seconds: one layer's hot buffer is just above top-k, so it evicts.
SMALL = ["--context", "2048", "--top-k", "256", "--hot-buffer", "300", "--layers", "2", "--heads", "2", "--steps", "2"]


def command():
    return [sys.executable, "-c", "from emulation.cli import main; main()"]


def environment(state_folder, **changes):
    return {**os.environ, "CXLBED_STATE_DIR": str(state_folder), "COLUMNS": "200", **changes}


def emulators_of(state_folder):
    """Process ids of every QEMU whose files lie in this state folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                arguments = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if b"qemu-system" in arguments.split(b"\0")[0] and str(state_folder).encode() in arguments:
                found.append(int(process.name))
    return found

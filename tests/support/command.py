"""The command `cxlbed` as a process of its own."""

import subprocess
import sys


def cxlbed(*arguments, **settings):
    """What `cxlbed ARGUMENTS` printed and ended with."""
    command = [sys.executable, "-c", "from emulation.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)

"""The command `cxlbed`: one module per group of verbs, each verb a thin function. Only this package exits.

Exit status: 0 all right, 1 a check failed, 2 unusable input, 3 the machine cannot do it.
"""

import sys

from emulation.version import version


def main() -> None:
    """Run the command. `--version` alone is answered before any verb, and what verbs need, is loaded."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"cxlbed {version}\n")
        return
    from emulation.cli.app import main as run_verb

    run_verb()


__all__ = ["main"]

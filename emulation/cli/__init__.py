"""The command `cxlbed`: one module per verb, imported when the verb is called. Only this package exits.

Exit status: 0 all right, 1 a check failed, 2 unusable input, 3 the machine cannot do it.
"""

from emulation.cli.app import main

__all__ = ["main"]

"""`python -m sac_runtime.native.build`: compiles the runtime's C library into its package, as an install does."""

import sys

from sac_runtime.native import LIBRARY
from sac_runtime.native.library import CompilerError


def main() -> int:
    try:
        sys.stdout.write(f"{LIBRARY.compile(LIBRARY.in_package)}\n")
    except CompilerError as error:
        sys.stderr.write(f"native library: {error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

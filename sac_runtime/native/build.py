"""Builds `libsac.so` from the C files beside this module. Knows the compiler; loads nothing.

Run as `python -m sac_runtime.native.build`; it does nothing when the library was built from these very sources.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from sac_runtime.errors import StoreError

HERE = Path(__file__).parent
LIBRARY = HERE / "libsac.so"
BUILD_COMMAND = "python -m sac_runtime.native.build"
FLAGS = ("-std=gnu11", "-O3", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread")
STAMP_PREFIX = b"sac-source-hash:"


def source_hash() -> str:
    """Hash of the flags and of every C file and header; the library carries that of the sources it was built from."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in _sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:32]


def built_hash() -> str | None:
    """The source hash inside the library; None if there is no library."""
    if not LIBRARY.exists():
        return None
    _, _, rest = LIBRARY.read_bytes().partition(STAMP_PREFIX)
    return rest[:32].decode("ascii", errors="replace")


def build() -> Path:
    """Compile the library if it is missing or of other sources; a killed build leaves the old. Raises StoreError."""
    wanted = source_hash()
    if built_hash() == wanted:
        return LIBRARY
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        raise StoreError("native library: no C compiler; install one (apt-get install gcc libc6-dev) or set CC")
    unfinished = LIBRARY.with_name(f".libsac.{os.getpid()}.so")
    stamp = f'-DSAC_STAMP="{STAMP_PREFIX.decode()}{wanted}"'
    command = [compiler, *FLAGS, stamp, "-o", str(unfinished), *(str(p) for p in _sources() if p.suffix == ".c")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise StoreError(f"native library: {' '.join(command)} ended with {result.returncode}:\n{result.stderr}")
    unfinished.replace(LIBRARY)
    return LIBRARY


def _sources() -> list[Path]:
    return sorted(path for path in HERE.iterdir() if path.suffix in {".c", ".h"})


def main() -> int:
    try:
        sys.stdout.write(f"{build()}\n")
    except StoreError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())

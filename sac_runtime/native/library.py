"""A C library beside the Python that opens it: where it lies, and how it is compiled. Knows the compiler; loads nothing.

Standard library alone: setup.py reads this file before anything is installed, to build what a wheel carries."""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

FLAGS = ("-std=gnu11", "-O3", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread")
STAMP_PREFIX = b"source-hash:"
HASH_DIGITS = 32


class CompilerError(Exception):
    """No library of these sources, and none could be compiled."""


@dataclass(frozen=True)
class NativeLibrary:
    """`lib<name>.so`, made from the C files in `folder`. It carries the hash of its sources, so that a stale one is never loaded.

    It lies in `folder` where a wheel or `compile` put it; else in the user's cache, compiled there at first use."""

    name: str
    folder: Path

    @property
    def sources(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.suffix in {".c", ".h"})

    @property
    def in_package(self) -> Path:
        return self.folder / f"lib{self.name}.so"

    @property
    def in_cache(self) -> Path:
        # As platformdirs has it, which a guest lacks.
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "cxlbed" / "native" / f"lib{self.name}-{self.source_hash()}.so"

    def source_hash(self) -> str:
        """Hash of the flags and of every C file and header."""
        digest = hashlib.sha256(" ".join(FLAGS).encode())
        for path in self.sources:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()[:HASH_DIGITS]

    def path(self) -> Path:
        """The library of these very sources; compiled into the cache if there is none.
        Raises CompilerError; OSError where the cache cannot be written."""
        for path in (self.in_package, self.in_cache):
            if _hash_in(path) == self.source_hash():
                return path
        self.in_cache.parent.mkdir(parents=True, exist_ok=True)
        return self.compile(self.in_cache)

    def compile(self, path: Path) -> Path:
        """Compile to `path`, unless it is of these sources already; a killed build leaves the old. Raises CompilerError."""
        source_hash = self.source_hash()
        if _hash_in(path) == source_hash:
            return path
        unfinished = path.with_name(f".{path.stem}.{os.getpid()}.so")
        stamp = f'-DSOURCE_STAMP="{STAMP_PREFIX.decode()}{source_hash}"'
        c_files = [str(path) for path in self.sources if path.suffix == ".c"]
        command = [_compiler(), *FLAGS, stamp, "-o", str(unfinished), *c_files]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise CompilerError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr}")
        unfinished.replace(path)
        return path


def _compiler() -> str:
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        raise CompilerError("no C compiler; install one (apt-get install gcc libc6-dev) or set CC")
    return compiler


def _hash_in(path: Path) -> str | None:
    """The source hash inside a library; None if there is no library."""
    if not path.exists():
        return None
    _, _, rest = path.read_bytes().partition(STAMP_PREFIX)
    return rest[:HASH_DIGITS].decode("ascii", errors="replace")

"""A cache of things built from a recipe, each a folder named by the recipe's hash. Knows locks, manifests and renames; not
what is in a folder.

An artefact is built in one folder that belongs to whoever holds the cache's lock, written through to the disk and then
renamed whole: so a folder that carries a hash for a name is finished, and one left by a killed build is removed by the next.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import platformdirs

from guest.errors import ImageError

MANIFEST = "manifest.json"
UNFINISHED = ".building"

Say = Callable[[str], None]


class Recipe(Protocol):
    """All that decides what is in an artefact, a dataclass; two equal recipes are one artefact."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that name the artefact."""
        ...


@dataclass(frozen=True)
class Cache:
    """The artefacts of one kind below `root`. kind: what to call one, for messages."""

    root: Path
    kind: str

    def ensure(self, recipe: Recipe, build: Callable[[Path], None], progress: Say) -> Path:
        """The folder of `recipe`, built first if it is not here. build: fills an empty folder, or raises ImageError."""
        if self.holds(recipe.hash):
            return self.root / recipe.hash
        with self._lock(progress):
            if not self.holds(recipe.hash):
                self._build(recipe, build, progress)
        return self.root / recipe.hash

    def holds(self, name: str) -> bool:
        """Whether the artefact `name` is here with all its parts, each of the size promised."""
        folder = self.root / name
        try:
            parts = manifest_of(folder)["parts"]
            return all((folder / part).stat().st_size == promised["size_bytes"] for part, promised in parts.items())
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
            return False

    def folders(self) -> list[Path]:
        """Every finished artefact, the newest first."""
        manifests = sorted(self.root.glob(f"[!.]*/{MANIFEST}"), key=lambda path: path.stat().st_mtime, reverse=True)
        return [path.parent for path in manifests if self.holds(path.parent.name)]

    def prune(self, keep: frozenset[str]) -> list[str]:
        """Remove every artefact but those in `keep`, and what killed builds left; returns the names removed.
        Waits for a build under way."""
        with self._lock(lambda _step: None):
            removed = [folder.name for folder in self.root.iterdir() if folder.is_dir() and folder.name not in keep]
            for name in removed:
                shutil.rmtree(self.root / name)
        return removed

    def _build(self, recipe: Recipe, build: Callable[[Path], None], progress: Say) -> None:
        """Build, write through, rename; the lock is ours, so anything unfinished is nobody's."""
        unfinished = self.root / UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(self.root / recipe.hash, ignore_errors=True)  # `holds` refused it
        unfinished.mkdir()
        build(unfinished)
        progress(f"writing the {self.kind} to disk")
        _write_manifest(recipe, unfinished)
        for part in [*unfinished.rglob("*"), unfinished]:
            _sync(part)
        unfinished.rename(self.root / recipe.hash)
        _sync(self.root)

    @contextlib.contextmanager
    def _lock(self, progress: Say) -> Iterator[None]:
        """Hold the cache against other builds. The programs that a build starts inherit the lock's file, so it stays held
        while one of them outlives a killed builder. That takes the file's descriptor, which the package filelock keeps to
        itself: hence flock."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock_file:
            os.set_inheritable(lock_file.fileno(), True)
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"waiting for another cxlbed that builds the {self.kind}")
                fcntl.flock(lock_file, fcntl.LOCK_EX)
            yield


def user_cache() -> Path:
    """Where all that is worth keeping between beds lies: `cxlbed` in the user's cache folder."""
    return platformdirs.user_cache_path("cxlbed")


def manifest_of(folder: Path) -> dict[str, Any]:
    """What an artefact was made of and what its parts are. Raises FileNotFoundError or ValueError where it has no manifest."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return manifest


def size_bytes(folder: Path) -> int:
    """What an artefact takes on this machine's disk; holes are not counted."""
    return sum(part.stat().st_blocks * 512 for part in folder.rglob("*"))


def verify(folder: Path, kind: str) -> None:
    """Read every part and compare it with the manifest. Raises ImageError naming the first part that differs."""
    for name, promised in manifest_of(folder)["parts"].items():
        shown = _sha256(folder / name)
        if shown != promised["sha256"]:
            raise ImageError(
                f"{kind} {folder.name}: {name} has sha256 {shown}, its manifest says {promised['sha256']}; remove {folder}"
            )


def recipe_hash(recipe: Recipe) -> str:
    """16 hexadecimal digits of all that is in `recipe`."""
    return hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()[:16]


def _write_manifest(recipe: Recipe, folder: Path) -> None:
    parts = {
        str(part.relative_to(folder)): {"size_bytes": part.stat().st_size, "sha256": _sha256(part)}
        for part in sorted(folder.rglob("*"))
        if part.is_file()
    }
    (folder / MANIFEST).write_text(json.dumps({"parts": parts, "recipe": asdict(recipe)}, indent=1))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The guest image as a cache entry: recipe -> kernel, initramfs and disk, by the recipe's hash. Builds by build.py.

An image is built in one folder that belongs to whoever holds the cache's lock, written through to the disk and then
renamed whole: so a folder that carries a hash for a name is a finished image, and one left by a killed build is removed
by the next.
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
from typing import Any

import platformdirs

from guest.errors import ImageError
from guest.image import build
from guest.image.recipe import STOCK, Recipe

MANIFEST = "manifest.json"
UNFINISHED = ".building"
NEEDED_BYTES = (
    1536 << 20
)  # measured: 0.9 GB at the peak of a build, in the cache and in mmdebstrap's temporary folder together


@dataclass(frozen=True)
class GuestImage:
    """A finished image; all guests share it and none can write it. cmdline: what the kernel must be given at least."""

    folder: Path
    hash: str
    cmdline: str

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinux"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def disk(self) -> Path:
        return self.folder / "disk.ext4"

    @property
    def size_bytes(self) -> int:
        """What the image takes on this machine's disk; holes are not counted."""
        return sum(part.stat().st_blocks * 512 for part in self.folder.iterdir())

    def verify(self) -> None:
        """Read every part and compare it with the manifest. Raises ImageError naming the first part that differs."""
        for name, promised in _manifest(self.folder)["parts"].items():
            shown = _sha256(self.folder / name)
            if shown != promised["sha256"]:
                raise ImageError(
                    f"image {self.hash}: {name} has sha256 {shown}, its manifest says {promised['sha256']}; "
                    f"remove {self.folder}"
                )


def user_cache() -> Path:
    """Where all that is worth keeping between beds lies: `cxlbed` in the user's cache folder."""
    return platformdirs.user_cache_path("cxlbed")


def cache_root() -> Path:
    """Where images are kept."""
    return user_cache() / "images"


def ensure(
    progress: Callable[[str], None] | None = None, recipe: Recipe = STOCK, root: Path | None = None
) -> GuestImage:
    """The image of `recipe`, built first if it is not in the cache. progress: called with the name of each step.
    Raises ImageError where it cannot be built: a missing program, no space, no network."""
    root = root or cache_root()
    progress = progress or (lambda _step: None)
    if image := _finished(root / recipe.hash):
        return image
    with _lock(root, progress):
        return _finished(root / recipe.hash) or _build(recipe, root, progress)


def list_images(root: Path | None = None) -> list[GuestImage]:
    """Every finished image in the cache, the newest first."""
    folders = sorted(
        (root or cache_root()).glob(f"[!.]*/{MANIFEST}"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    return [image for path in folders if (image := _finished(path.parent))]


def prune(keep: frozenset[str] = frozenset({STOCK.hash}), root: Path | None = None) -> list[str]:
    """Remove every image but those in `keep`, and what killed builds left; returns the names removed.
    Waits for a build under way."""
    root = root or cache_root()
    with _lock(root, lambda _step: None):
        removed = [folder.name for folder in root.iterdir() if folder.is_dir() and folder.name not in keep]
        for name in removed:
            shutil.rmtree(root / name)
    return removed


def _build(recipe: Recipe, root: Path, progress: Callable[[str], None]) -> GuestImage:
    """Build, write through, rename; the lock is ours, so anything unfinished is nobody's."""
    unfinished = root / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(root / recipe.hash, ignore_errors=True)  # `_finished` refused it
    build.check_machine(root, NEEDED_BYTES)
    unfinished.mkdir()
    build.build(recipe, unfinished, progress)
    progress("writing the image to disk")
    _write_manifest(recipe, unfinished)
    for part in unfinished.iterdir():
        _sync(part)
    _sync(unfinished)
    unfinished.rename(root / recipe.hash)
    _sync(root)
    return GuestImage(root / recipe.hash, recipe.hash, recipe.cmdline)


def _finished(folder: Path) -> GuestImage | None:
    """The image in `folder` if all its parts are there with the sizes promised, else None."""
    try:
        manifest = _manifest(folder)
        sizes = {name: (folder / name).stat().st_size for name in manifest["parts"]}
    except (FileNotFoundError, ValueError, KeyError):
        return None
    if any(sizes[name] != part["size_bytes"] for name, part in manifest["parts"].items()):
        return None
    return GuestImage(folder, folder.name, manifest["recipe"]["cmdline"])


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return manifest


def _write_manifest(recipe: Recipe, folder: Path) -> None:
    parts = {
        part.name: {"size_bytes": part.stat().st_size, "sha256": _sha256(part)} for part in sorted(folder.iterdir())
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


@contextlib.contextmanager
def _lock(root: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the cache against other builds. The programs that a build starts inherit the lock's file, so it stays held
    while one of them outlives a killed builder. That takes the file's descriptor, which the package filelock keeps to itself:
    hence flock."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock_file:
        os.set_inheritable(lock_file.fileno(), True)
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another cxlbed that builds the image")
            fcntl.flock(lock_file, fcntl.LOCK_EX)
        yield

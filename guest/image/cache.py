"""The guest image as a cached artefact: recipe -> kernel, initramfs and disk. Builds by build.py."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guest.artefacts import cache
from guest.artefacts.cache import Cache, manifest_of, user_cache
from guest.image import build
from guest.image.recipe import STOCK, Recipe

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
        return cache.size_bytes(self.folder)

    def verify(self) -> None:
        """Read every part and compare it with the manifest. Raises ImageError naming the first part that differs."""
        cache.verify(self.folder, "image")


def cache_root() -> Path:
    """Where images are kept."""
    return user_cache() / "images"


def ensure(
    progress: Callable[[str], None] | None = None, recipe: Recipe = STOCK, root: Path | None = None
) -> GuestImage:
    """The image of `recipe`, built first if it is not in the cache. progress: called with the name of each step.
    Raises ImageError where it cannot be built: a missing program, no space, no network."""
    say = progress or (lambda _step: None)

    def make(folder: Path) -> None:
        build.check_machine(folder, NEEDED_BYTES)
        build.build(recipe, folder, say)

    return _image(_cache(root).ensure(recipe, make, say))


def list_images(root: Path | None = None) -> list[GuestImage]:
    """Every finished image in the cache, the newest first."""
    return [_image(folder) for folder in _cache(root).folders()]


def prune(keep: frozenset[str] = frozenset({STOCK.hash}), root: Path | None = None) -> list[str]:
    """Remove every image but those in `keep`, and what killed builds left; returns the names removed.
    Waits for a build under way."""
    return _cache(root).prune(keep)


def _cache(root: Path | None) -> Cache:
    return Cache(root or cache_root(), "image")


def _image(folder: Path) -> GuestImage:
    return GuestImage(folder, folder.name, manifest_of(folder)["recipe"]["cmdline"])

"""Our own emulator as a cached artefact: recipe -> QEMU with its loader, libraries, modules and firmware."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from emulation.machines.emulator.recipe import OWN, EmulatorRecipe
from emulation.say import Say
from guest.artefacts import cache
from guest.artefacts.cache import Cache, manifest_of, user_cache
from guest.artefacts.debian import require_machine, run_mmdebstrap
from guest.errors import ImageError

WHAT = "emulator"
PROGRAM = "qemu-system-x86_64"
PROGRAMS = {"mmdebstrap": "mmdebstrap"}
NEEDED_BYTES = (
    640 << 20
)  # measured: 0.43 GB at the peak of a build, in the cache and in mmdebstrap's temporary folder together
_GONE = re.compile(r"Version '[^']*' for '[^']*' was not found")


class StaleRecipeError(ImageError):
    """The mirror no longer holds the version that the emulator's recipe names."""


@dataclass(frozen=True)
class OwnEmulator:
    """A finished emulator; all beds share it. version: of its package."""

    folder: Path
    version: str

    @property
    def hash(self) -> str:
        return self.folder.name

    @property
    def program(self) -> Path:
        """What to start: a script that starts QEMU with nothing of the machine's."""
        return self.folder / PROGRAM

    def verify(self) -> None:
        """Read every part and compare it with the manifest. Raises ImageError naming the first part that differs."""
        cache.verify(self.folder, WHAT)


def cache_root() -> Path:
    """Where emulators are kept."""
    return user_cache() / "emulators"


def ensure(progress: Say, recipe: EmulatorRecipe = OWN, root: Path | None = None) -> OwnEmulator:
    """The emulator of `recipe`, built first if it is not in the cache.
    Raises StaleRecipeError where the mirror has moved on; ImageError where it cannot be built for another reason."""

    def make(folder: Path) -> None:
        require_machine(WHAT, PROGRAMS, folder, NEEDED_BYTES)
        _build(recipe, folder, progress)

    return _emulator(_cache(root).ensure(recipe, make, progress))


def held(recipe: EmulatorRecipe = OWN, root: Path | None = None) -> OwnEmulator | None:
    """The emulator of `recipe` if the cache holds it."""
    kept = _cache(root)
    return _emulator(kept.root / recipe.hash) if kept.holds(recipe.hash) else None


def list_emulators(root: Path | None = None) -> list[OwnEmulator]:
    """Every finished emulator in the cache, the newest first."""
    return [_emulator(folder) for folder in _cache(root).folders()]


def prune(keep: frozenset[str], root: Path | None = None) -> list[str]:
    """Remove every emulator but those in `keep`, and what killed builds left; returns the names removed."""
    return _cache(root).prune(keep)


def offered_version(recipe: EmulatorRecipe = OWN) -> str:
    """The version of the recipe's package that the mirror holds now. Raises ImageError where it cannot be asked."""
    options = [*_options(recipe), f"--include={recipe.package}", "--simulate", "--verbose"]
    said = run_mmdebstrap(WHAT, recipe.suites, options, {}, lambda _step: None)
    found = re.search(rf"^Inst {re.escape(recipe.package)} \((\S+)", said, re.MULTILINE)
    if found is None:
        raise ImageError(f"{WHAT}: the mirror offers no {recipe.package} in {recipe.suites[1]}")
    return found[1]


def moved_on(recipe: EmulatorRecipe, offered: str) -> str:
    """What to tell a user of a mirror that offers another version than the recipe's, and what to do."""
    return (
        f"{WHAT}: the recipe no longer holds: {recipe.suites[1]} has {recipe.package} {offered}, the recipe names"
        f" {recipe.version}; change VERSION in emulation/machines/emulator/recipe.py and run tests/vm/test_emulator.py, or"
        " take the machine's own (--emulator system)"
    )


def _build(recipe: EmulatorRecipe, folder: Path, progress: Say) -> None:
    """Unpack the packages in a root of mmdebstrap's own and have what the hook picks handed out to `folder`."""
    progress(f"unpacking QEMU {recipe.version}")
    options = [
        *_options(recipe),
        f"--include={recipe.package}={recipe.version}",
        '--extract-hook=sh -c "$CXLBED_PACK" pack "$1"',  # through the environment, since mmdebstrap prints its hooks
        f"--extract-hook=copy-out /parts {folder}",
    ]
    try:
        run_mmdebstrap(WHAT, recipe.suites, options, {"CXLBED_PACK": recipe.pack}, progress)
    except ImageError as error:
        if _GONE.search(str(error)):
            raise StaleRecipeError(moved_on(recipe, offered_version(recipe))) from error
        raise
    for part in (folder / "parts").iterdir():
        part.rename(folder / part.name)
    (folder / "parts").rmdir()
    _require_whole(recipe, folder)


def _require_whole(recipe: EmulatorRecipe, folder: Path) -> None:
    """Raise ImageError where a part is missing that QEMU would then look for on the machine, or the program does not start."""
    for name in recipe.firmware:
        if not (folder / "firmware" / name).is_file():
            raise ImageError(f"{WHAT}: firmware {name} is not in the packages of {recipe.suites[1]}")
    started = subprocess.run([str(folder / PROGRAM), "--version"], capture_output=True, text=True, check=False)
    if started.returncode != 0 or recipe.version not in started.stdout:
        raise ImageError(
            f"{WHAT}: what was built does not start: status {started.returncode}: {(started.stderr or started.stdout)[-500:]}"
        )


def _options(recipe: EmulatorRecipe) -> list[str]:
    return ["--variant=extract", "--format=null", f'--aptopt=APT::Default-Release "{recipe.suites[1]}"']


def _cache(root: Path | None) -> Cache:
    return Cache(root or cache_root(), WHAT)


def _emulator(folder: Path) -> OwnEmulator:
    return OwnEmulator(folder, manifest_of(folder)["recipe"]["version"])

"""Which QEMU beds run with, and why: our own, the machine's, or one that the user names. Knows versions; starts no machine."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from emulation.errors import InputError, MachineError
from emulation.machines.emulator import own
from emulation.machines.emulator.recipe import OWN
from emulation.say import Say
from guest.errors import ImageError

VARIABLE = "CXLBED_EMULATOR"
OLDEST_QEMU = (9, 0)  # volatile Type-3, HMAT beside it and dynamic capacity
BACK_INVALIDATE_QEMU = (11, 0)  # cxl-type3 has hdm-db
DIRECT_MAP_QEMU = (11, 1)  # from here on memory that is not interleaved runs at the speed of RAM

Kind = Literal["bundled", "system", "path"]


@dataclass(frozen=True)
class Emulator:
    """A QEMU to run beds with. kind: "bundled" is the one of our own; version: (major, minor); reason: why this one."""

    kind: Kind
    path: Path
    version: tuple[int, int]
    reason: str

    @property
    def maps_directly(self) -> bool:
        """Whether CXL memory that is not interleaved runs at the speed of RAM in its guests, and not as emulated MMIO."""
        return self.version >= DIRECT_MAP_QEMU

    def __str__(self) -> str:
        return f"QEMU {dotted(self.version)}, {self.kind} ({self.reason})"


def choose(asked: str | None, runs_as_us: bool, progress: Say) -> Emulator:
    """The emulator to run a bed with, our own being built first if need be. asked: "auto", "bundled", "system" or a path;
    None is what CXLBED_EMULATOR says, or "auto". runs_as_us: whether libvirt starts QEMU on this machine as this user: one
    that does not cannot be counted on to reach our cache.
    Raises InputError for a path that is no QEMU, MachineError or ImageError where the one asked for is not to be had."""
    source = "asked for" if asked else f"{VARIABLE} says so"
    match asked or os.environ.get(VARIABLE) or "auto":
        case "auto":
            return _fitting(runs_as_us, progress)
        case "bundled":
            return _bundled(own.ensure(progress), source)
        case "system":
            return require_system(source)
        case path:
            return _named(Path(path), source)


def preview() -> Emulator:
    """What `choose` would take for an embedded bed, were our own at hand as it is in the cache now: nothing is built.
    Raises as choose."""
    asked = os.environ.get(VARIABLE) or "auto"
    cached = own.held()
    if asked not in ("auto", "bundled") or cached is not None:
        return choose(None, True, lambda _step: None)
    machine = system("the machine's, at least 11.1")
    if machine is not None and machine.maps_directly and asked == "auto":
        return machine
    raise ImageError(f"emulator: QEMU {OWN.version} is not in the cache yet; build it: cxlbed image build")


def system(reason: str) -> Emulator | None:
    """The machine's QEMU, or None where it has none that starts."""
    path = shutil.which(own.PROGRAM)
    version = version_of(Path(path)) if path else None
    return Emulator("system", Path(path), version, reason) if path and version else None


def require_system(reason: str) -> Emulator:
    """The machine's QEMU. Raises MachineError where it has none."""
    found = system(reason)
    if found is None:
        raise MachineError(
            f"{own.PROGRAM}: not found in PATH; run scripts/setup, or install QEMU >= 9.0 (Debian: qemu-system-x86)"
        )
    return found


def version_of(path: Path) -> tuple[int, int] | None:
    """(major, minor) that the program at `path` says it is; None where it is no QEMU."""
    return _version_of(path, path.stat().st_mtime_ns) if path.is_file() else None


def dotted(version: tuple[int, int]) -> str:
    """As a version is written."""
    return ".".join(map(str, version))


def _fitting(runs_as_us: bool, progress: Say) -> Emulator:
    """The machine's where it maps CXL memory directly, or where ours would not be reached; else our own, and where that is
    not to be had the machine's all the same, with the reason."""
    machine = system("the machine's, at least 11.1")
    if machine is not None and machine.maps_directly:
        return machine
    if not runs_as_us:
        return require_system("libvirt starts it for another user or on another machine")
    older = f"the machine's is {dotted(machine.version)}" if machine else "the machine has none"
    try:
        return _bundled(own.ensure(progress), older)
    except ImageError as error:
        if machine is None or machine.version < OLDEST_QEMU:
            raise
        progress(str(error))
        return require_system(f"ours could not be built: {str(error).splitlines()[0]}")


def _bundled(emulator: own.OwnEmulator, reason: str) -> Emulator:
    version = version_of(emulator.program)
    if version is None:
        raise MachineError(f"emulator {emulator.hash}: does not start; remove {emulator.folder}")
    return Emulator("bundled", emulator.program, version, reason)


def _named(path: Path, reason: str) -> Emulator:
    version = version_of(path) if path.is_absolute() else None
    if version is None:
        raise InputError(
            f"emulator '{path}': is no QEMU that starts; give auto, bundled, system or the absolute path of one"
        )
    return Emulator("path", path, version, reason)


@lru_cache
def _version_of(path: Path, _changed_ns: int) -> tuple[int, int] | None:
    try:
        printed = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    found = re.search(r"QEMU emulator version (\d+)\.(\d+)", printed)
    return (int(found[1]), int(found[2])) if found else None

"""What goes into our own emulator, and its hash. Knows packages; builds nothing.

To move to a newer QEMU change VERSION, one line, and run `pytest tests/vm/test_emulator.py`. `cxlbed image check` asks the
mirror whether this one is still to be had.
"""

from dataclasses import dataclass
from pathlib import Path

from guest.artefacts.cache import recipe_hash

VERSION = "1:11.1.3+ds-1~bpo13+1"
PACK = Path(__file__).parent / "pack.sh"
# What QEMU reads for a machine like ours when it starts; a build without one of them would take the machine's.
FIRMWARE = ("bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin")


@dataclass(frozen=True)
class EmulatorRecipe:
    """All that decides what is in an emulator; two equal recipes are one. suites: the release, then the suite that `package`
    is taken from in `version`; pack: the script that picks what is kept, with a loader and libraries of its own."""

    suites: tuple[str, str] = ("trixie", "trixie-backports")
    package: str = "qemu-system-x86"
    version: str = VERSION
    firmware: tuple[str, ...] = FIRMWARE
    pack: str = PACK.read_text()

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that name the emulator."""
        return recipe_hash(self)


OWN = EmulatorRecipe()

"""Where beds get what they are made of: hypervisor, emulator, guest image, sessions. The one seam for tests and for other
machines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emulation.machines.emulator.choice import Emulator, choose
from emulation.machines.hypervisor import Hypervisor, Libvirt
from emulation.say import Say
from guest.image.cache import GuestImage, ensure
from guest.session import Session


@dataclass(frozen=True)
class Backend:
    """Makers of a bed's parts.

    emulator: of what the user asks for and whether QEMU will run as this user here (`emulator.choice.choose`);
    hypervisor: of a libvirt URI and the folder that it may use; image: the guest image, which may have to be built;
    session: of a host's port on 127.0.0.1, the bed's private key, its known_hosts file and the host's console file, which is
    None where the console lies on another machine."""

    hypervisor: Callable[[str, Path], Hypervisor] = Libvirt
    image: Callable[[Say], GuestImage] = ensure
    emulator: Callable[[str | None, bool, Say], Emulator] = choose
    session: Callable[[int, Path, Path, Path | None], Session] = Session


QEMU = Backend()

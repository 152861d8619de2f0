"""What this machine can do for a bed: each known trap as a check with a verdict and a fix. Changes nothing that lasts."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from emulation.errors import CxlbedError
from emulation.machines.emulator.choice import OLDEST_QEMU, Emulator, dotted, preview
from emulation.machines.hypervisor import EMBEDDED, Libvirt
from emulation.machines.kvm import KVM_DEVICE, choose
from emulation.machines.record import LONGEST_SOCKET_BELOW, LONGEST_SOCKET_PATH, state_root
from guest.agent.numa_nodes import num_nodes
from guest.errors import GuestError, ImageError
from guest.image.cache import NEEDED_BYTES, GuestImage, cache_root, list_images
from guest.image.recipe import STOCK
from qemu_configs import bedfile
from qemu_configs.topology import MIB
from sac_runtime import native
from sac_runtime.errors import SacError

NAME_ROOM = 20  # characters that should be left for a bed's name
MAIN_TOPOLOGY = "shared-pool"


class Severity(StrEnum):
    OK = "ok"
    NOTE = "note"  # works, with a limit that one should know
    FAIL = "fail"  # the main job cannot run


@dataclass(frozen=True)
class Finding:
    """One check's outcome; `fix` is empty where there is nothing to do."""

    check: str
    verdict: Severity
    detail: str
    fix: str = ""


def examine() -> list[Finding]:
    """Every check, in the order in which they build on one another."""
    return [check() for check in _CHECKS]


def can_run(findings: list[Finding]) -> bool:
    """Whether the main job can run."""
    return all(finding.verdict is not Severity.FAIL for finding in findings)


def _qemu() -> Finding:
    try:
        emulator = preview()
    except CxlbedError as error:
        return Finding(
            "QEMU", Severity.FAIL, str(error), "run scripts/setup, or give --emulator system, bundled or a path"
        )
    except ImageError as error:
        can_build = shutil.which("mmdebstrap") is not None
        fix = "the next command builds it (half a minute): cxlbed image build" if can_build else "run scripts/setup"
        return Finding("QEMU", Severity.NOTE if can_build else Severity.FAIL, str(error), fix)
    if emulator.version < OLDEST_QEMU:
        return Finding("QEMU", Severity.FAIL, f"{emulator} has no volatile CXL memory", "give --emulator bundled")
    return Finding("QEMU", Severity.OK, f"{emulator}: {emulator.path}")


def _qemu_devices() -> Finding:
    emulator = _emulator()
    if emulator is None:
        return Finding("CXL devices", Severity.NOTE, "no QEMU to ask yet", "see QEMU above")
    listing = subprocess.run(
        [str(emulator.path), "-device", "help"], capture_output=True, text=True, check=False
    ).stdout
    missing = [
        name
        for name in ("pxb-cxl", "cxl-rp", "cxl-type3", "cxl-upstream", "cxl-downstream")
        if f'"{name}"' not in listing
    ]
    if missing:
        return Finding(
            "CXL devices",
            Severity.FAIL,
            f"QEMU lacks {', '.join(missing)}",
            "install the distribution's full qemu-system-x86",
        )
    return Finding("CXL devices", Severity.OK, "pxb-cxl, cxl-rp, switch and Type-3")


def _cxl_speed() -> Finding:
    emulator = _emulator()
    if emulator is not None and emulator.maps_directly:
        return Finding(
            "CXL memory speed",
            Severity.NOTE,
            "at the speed of RAM, interleaved regions as emulated MMIO",
            "neither is CXL latency: see `cxlbed latency`",
        )
    return Finding(
        "CXL memory speed",
        Severity.NOTE,
        "emulated MMIO, 4 to 28 MB/s: good for bytes, not for time",
        "give --emulator bundled: QEMU >= 11.1 maps regions that are not interleaved directly",
    )


def _libvirt() -> Finding:
    fix = "run scripts/setup (libvirt-daemon-driver-qemu, and libvirt-python of the library's version)"
    try:
        with tempfile.TemporaryDirectory(prefix="cxlbed-doctor-") as folder:
            hypervisor = Libvirt(EMBEDDED, Path(folder))
            hypervisor.prepare()
            hypervisor.states([])
    except CxlbedError as error:
        return Finding("libvirt, embedded", Severity.FAIL, str(error).splitlines()[0], fix)
    return Finding("libvirt, embedded", Severity.OK, "opens without a daemon")


def _socket_paths() -> Finding:
    root = state_root()
    room = LONGEST_SOCKET_PATH - LONGEST_SOCKET_BELOW - len(f"{root}/")
    if room < NAME_ROOM:
        return Finding(
            "state folder",
            Severity.FAIL,
            f"{root} is too long for sockets below it",
            "set CXLBED_STATE_DIR to a shorter path",
        )
    return Finding("state folder", Severity.OK, str(root))


def _guest_image() -> Finding:
    cached = _cached_image()
    if cached is not None:
        return Finding("guest image", Severity.OK, f"cached ({cached.hash[:12]})")
    if shutil.which("mmdebstrap") is None:
        return Finding("guest image", Severity.FAIL, "not cached, and mmdebstrap is missing", "run scripts/setup")
    cache = next(folder for folder in (cache_root(), *cache_root().parents) if folder.exists())
    free = shutil.disk_usage(cache).free
    if free < NEEDED_BYTES:
        return Finding(
            "guest image",
            Severity.FAIL,
            f"not cached, and {free // MIB} MiB free in {cache}",
            f"free {NEEDED_BYTES // MIB} MiB, or set XDG_CACHE_HOME",
        )
    return Finding(
        "guest image", Severity.NOTE, "not cached", "the next command builds it (about a minute): cxlbed image build"
    )


def _accelerator() -> Finding:
    cached = _cached_image()
    emulator = _emulator()
    if cached is None or emulator is None:
        return Finding("accelerator", Severity.NOTE, "KVM is tried once QEMU and the image are there")
    try:
        choice = choose("auto", cached, emulator.path)
    except (CxlbedError, GuestError) as error:
        return Finding("accelerator", Severity.FAIL, str(error), "use --accelerator tcg")
    if choice.accelerator == "kvm":
        return Finding("accelerator", Severity.OK, "KVM boots the guest's kernel")
    return Finding("accelerator", Severity.NOTE, f"TCG: {choice.reason}", "nothing to do: TCG is what CI uses too")


def _kvm_system_ram() -> Finding:
    emulator = _emulator()
    if emulator is not None and not emulator.maps_directly and os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return Finding(
            "KVM with system-ram",
            Severity.NOTE,
            f"QEMU {dotted(emulator.version)} breaks CXL memory onlined as system RAM under KVM",
            "use mode: devdax, --accelerator tcg, or QEMU >= 11.1",
        )
    return Finding("KVM with system-ram", Severity.OK, "does not arise here")


def _shared_memory() -> Finding:
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    needed = sum(device.capacity_bytes for device in bedfile.load(MAIN_TOPOLOGY).devices)
    if free < needed:
        return Finding(
            "/dev/shm",
            Severity.FAIL,
            f"{free // MIB} MiB free; the main job's pool holds {needed // MIB}",
            "enlarge /dev/shm, or give another folder: --memory-folder",
        )
    return Finding("/dev/shm", Severity.OK, f"{free // MIB} MiB free")


def _memory() -> Finding:
    available: int = psutil.virtual_memory().available
    needed = sum(host.total_memory_bytes for host in bedfile.load(MAIN_TOPOLOGY).hosts)
    if available < needed:
        return Finding(
            "memory",
            Severity.FAIL,
            f"{available // MIB} MiB available; two hosts want {needed // MIB}",
            "end other programs, or use a topology of one host",
        )
    return Finding("memory", Severity.OK, f"{available // MIB} MiB available")


def _ssh() -> Finding:
    if shutil.which("ssh") is None:
        return Finding(
            "SSH", Severity.NOTE, "no ssh in PATH, which `cxlbed exec` and `ssh` are", "install openssh-client"
        )
    return Finding("SSH", Severity.OK, "keys are made for each bed; guests listen on loopback only")


def _native_library() -> Finding:
    try:
        isa = native.isa()
    except (SacError, OSError) as error:
        return Finding(
            "native library", Severity.FAIL, str(error), "install gcc and libc6-dev, or a wheel that carries it"
        )
    return Finding("native library", Severity.OK, f"gathers with {isa}")


def _huge_pages() -> Finding:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    text = setting.read_text() if setting.exists() else "[never]"
    if "[never]" in text:
        return Finding(
            "huge pages",
            Severity.NOTE,
            "transparent huge pages are off: gathers take about twice as long",
            f"echo madvise > {setting}",
        )
    return Finding("huge pages", Severity.OK, text.strip())


def _numa() -> Finding:
    nodes = num_nodes()
    if nodes < 2:
        return Finding(
            "remote NUMA",
            Severity.NOTE,
            "one node: remote memory cannot be measured here",
            "take a two-socket host, or the topology remote-numa for the plumbing",
        )
    return Finding("remote NUMA", Severity.OK, f"{nodes} nodes")


def _dynamic_capacity() -> Finding:
    return Finding(
        "dynamic capacity",
        Severity.NOTE,
        "stock guest kernels (6.12, 7.3) cannot online it",
        "the topology dynamic-capacity drives the device's side over QMP only",
    )


def _hypervisor_bit() -> Finding:
    """Looks at nothing: a trap of every machine, which the rendered domains step around."""
    return Finding(
        "hypervisor bit",
        Severity.NOTE,
        "a guest that sees a hypervisor cannot commit CXL regions",
        "nothing to do here: domains hide it; in a QEMU of your own use -cpu max,-hypervisor",
    )


_CHECKS: list[Callable[[], Finding]] = [
    _qemu,
    _qemu_devices,
    _libvirt,
    _socket_paths,
    _ssh,
    _native_library,
    _guest_image,
    _memory,
    _shared_memory,
    _accelerator,
    _kvm_system_ram,
    _cxl_speed,
    _hypervisor_bit,
    _dynamic_capacity,
    _huge_pages,
    _numa,
]


def _cached_image() -> GuestImage | None:
    return next((held for held in list_images() if held.hash == STOCK.hash), None)


def _emulator() -> Emulator | None:
    """What beds would run with, None where that is still to be built or cannot be had."""
    with suppress(CxlbedError, ImageError):
        return preview()
    return None

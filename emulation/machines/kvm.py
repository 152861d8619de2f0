"""KVM or TCG: a /dev/kvm that opens may not boot a kernel, so KVM is tried on the guest's own before it is chosen."""

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from emulation.errors import MachineError
from emulation.files import write_whole
from emulation.machines.record import Accelerator
from guest.artefacts.cache import user_cache
from guest.image.cache import GuestImage

KVM_DEVICE = Path("/dev/kvm")
EXPECTED_END = "Kernel panic"
TRIAL_DEADLINE_S = 6.0  # hardware does it in less than one
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Choice:
    """Which accelerator beds run with here, and why."""

    accelerator: Accelerator
    reason: str


def choose(wanted: str, image: GuestImage, emulator: Path, is_here: bool = True) -> Choice:
    """`wanted` is "auto", "kvm" or "tcg"; is_here: whether QEMU will run on this machine, where KVM can be tried.
    Raises MachineError where KVM is wanted and does not boot the guest's kernel."""
    if wanted == "tcg":
        return Choice("tcg", "asked for")
    if not is_here:
        return Choice("kvm", "asked for") if wanted == "kvm" else Choice("tcg", "KVM is not tried on another machine")
    failure = _kvm_failure(image, emulator)
    if failure is None:
        return Choice("kvm", "KVM boots the guest's kernel")
    if wanted == "kvm":
        raise MachineError(f"accelerator kvm: {failure}; use --accelerator tcg")
    return Choice("tcg", failure)


def _kvm_failure(image: GuestImage, emulator: Path) -> str | None:
    """Why KVM cannot be used, or None. The trial's outcome is kept until the machine, QEMU or the image changes."""
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return (
            f"{KVM_DEVICE} is not there"
            if not KVM_DEVICE.exists()
            else f"{KVM_DEVICE} does not open for user {os.getuid()}"
        )
    version = subprocess.run([str(emulator), "--version"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256(f"{BOOT_ID.read_text()} {version} {image.hash}".encode()).hexdigest()[:16]
    kept = user_cache() / "kvm" / f"{key}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps(_try_kvm(image, emulator)))  # several beds may try at once
    outcome: str | None = json.loads(kept.read_text())
    return outcome


def _try_kvm(image: GuestImage, emulator: Path) -> str | None:
    """Boot the guest's kernel under KVM to the panic that it ends in without a root, and have it say so on its console:
    a machine that merely resets ends QEMU just as quietly."""
    machine = ["-accel", "kvm", "-cpu", "max,-hypervisor", "-M", "q35", "-m", "256", "-nodefaults", "-no-reboot"]
    words = "console=ttyS0 panic=-1 rdinit=/none root=none"
    boot = ["-display", "none", "-serial", "stdio", "-kernel", str(image.kernel), "-append", words]
    try:
        ended = subprocess.run(
            [str(emulator), *machine, *boot],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TRIAL_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"KVM did not boot the guest's kernel within {TRIAL_DEADLINE_S:.0f} s"
    if ended.returncode != 0 or EXPECTED_END not in ended.stdout:
        said = (ended.stderr.strip() or ended.stdout.strip())[-300:]
        return f"KVM did not boot the guest's kernel: QEMU ended with status {ended.returncode}: {said}"
    return None

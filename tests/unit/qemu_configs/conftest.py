import json
import shutil
import subprocess
from pathlib import Path

import pytest

from qemu_configs.render import HostLaunch, qemu_argv


@pytest.fixture
def place():
    """Builds a Placement in which every path and name is fixed, save for what the test says."""

    def build(**said):
        folder = Path("/beds/one")
        fixed = {
            "domain_name": "one",
            "uuid": "11111111-2222-4333-8444-555555555555",
            "emulator": Path("/usr/bin/qemu-system-x86_64"),
            "accelerator": "tcg",
            "kernel": folder / "vmlinuz",
            "initrd": folder / "initrd.img",
            "kernel_cmdline": "console=ttyS0 root=/dev/vda ro",
            "disk": folder / "disk.img",
            "ssh_port": 22022,
            "console": folder / "console",
            "monitor": folder / "qmp",
            "backing_folder": Path("/dev/shm/one"),
        }
        return HostLaunch(**(fixed | said))

    return build


@pytest.fixture
def tell_qemu(place, tmp_path):
    """Starts QEMU with all of a host but its kernel, halted; tells it the commands, ends it, returns how it ended."""
    emulator = shutil.which("qemu-system-x86_64")
    if emulator is None:
        pytest.skip("qemu-system-x86_64 is missing; install qemu-system-x86 (scripts/setup does)")
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    placement = place(
        emulator=Path(emulator), disk=disk, console=tmp_path / "console", backing_folder=tmp_path, ssh_port=0
    )

    def tell(topology, host, commands=()):
        argv = [*qemu_argv(topology, host, placement), "-S"]
        kernel = argv.index("-kernel")
        del argv[kernel : kernel + 6]
        argv[argv.index("-qmp") + 1] = "stdio"
        told = "\n".join(json.dumps(c) for c in ({"execute": "qmp_capabilities"}, *commands, {"execute": "quit"}))
        return subprocess.run(argv, input=told, capture_output=True, text=True, timeout=60, check=False)

    return tell

from pathlib import Path

import pytest

from qemu_configs.render import Placement


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="Rewrite the golden files of qemu_configs.")


@pytest.fixture
def update_golden(request):
    return request.config.getoption("--update-golden", default=False)


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
        return Placement(**(fixed | said))

    return build

"""Beds whose hosts run nowhere: a hypervisor, sessions and an image of our own behind `Backend`, with failures on demand.

Fakes stand at our seams alone; records, locks, keys, initramfs, XML, provisioning and the comparison are the real ones.
"""

from pathlib import Path

from emulation.machines.backend import Backend
from emulation.machines.emulator.choice import Emulator
from guest.image.cache import GuestImage
from guest.session import Outcome

RECORDED = Path(__file__).parents[1] / "unit" / "guest" / "recorded"


class World:
    """All that runs. `fail` makes a step raise; `calls` says what was asked, in order; `shown` is what every guest shows."""

    def __init__(self, folder, topology_name):
        self.shown = (RECORDED / f"{topology_name}.txt").read_bytes()
        self.image_folder = folder / "image"
        self.image_folder.mkdir()
        for part in ("vmlinux", "initrd", "disk.ext4"):
            (self.image_folder / part).write_bytes(part.encode())
        self.running, self.calls, self.xmls, self._failures = set(), [], [], {}
        self.backend = Backend(self._hypervisor, self._image, self._emulator, self._session)

    def fail(self, step, *errors):
        """Have the next calls of `step` raise these, one per call."""
        self._failures[step] = list(errors)

    def take(self, step):
        self.calls.append(step)
        if self._failures.get(step):
            raise self._failures[step].pop(0)

    def _image(self, progress):
        self.take("image")
        return GuestImage(self.image_folder, "0123456789abcdef", "console=ttyS0")

    def _emulator(self, asked, runs_as_us, progress):
        self.take("emulator")
        return Emulator("bundled", self.image_folder / "qemu", (11, 1), "as asked")

    def _hypervisor(self, uri, root):
        return FakeHypervisor(self, root)

    def _session(self, port, key, known_hosts, console):
        assert f"[127.0.0.1]:{port} " in known_hosts.read_text()
        assert key.stat().st_mode & 0o077 == 0
        return FakeSession(self)


class FakeHypervisor:
    def __init__(self, world, root):
        self.world, self.root = world, root

    def prepare(self):
        self.world.take("prepare")
        self.root.mkdir()

    def start(self, xml_paths):
        names = []
        for path in xml_paths:
            self.world.xmls.append(path.read_text())
            names.append(path.read_text().split("<name>")[1].split("</name>")[0])
            (self.root / f"{names[-1]}.log").write_text("first\nQEMU's last words\n")
        self.world.running.add(names[0])  # a start that fails may have started some
        self.world.take("start")
        self.world.running.update(names)
        return names

    def states(self, names):
        self.world.take("states")
        return {name: "running" for name in names if name in self.world.running}

    def destroy(self, names):
        self.world.take("destroy")
        self.world.running.difference_update(names)

    def end_strays(self, uuids):
        self.world.take("end_strays")
        self.world.running = {name for name in self.world.running if not any(uuid in self._xml(name) for uuid in uuids)}

    def monitor(self, name, command):
        self.world.take("monitor")
        return {"told": name, **command}

    def log_path(self, name):
        return self.root / f"{name}.log"

    def _xml(self, name):
        return next(xml for xml in reversed(self.world.xmls) if f"<name>{name}</name>" in xml)


class FakeSession:
    def __init__(self, world):
        self.world = world

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def connect(self, deadline_s):
        self.world.take("connect")

    def run(self, command, name=None):
        self.world.take("run")
        return Outcome(name or command, 0, self.world.shown, "")

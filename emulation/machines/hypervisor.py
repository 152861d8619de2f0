"""A bed's hypervisor: what it offers, and libvirt's, the caller's side of `emulation.machines.domain`. Knows URI, root folder
and QEMU's processes, not what is in a domain.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from emulation.errors import MachineError
from guest.artefacts.cache import user_cache
from guest.deadline import Deadline

EMBEDDED = "embedded"
END_DEADLINE_S = 10.0  # how long a QEMU that was told to end has before it is killed
# Without a daemon there is nobody to log, label, confine or chown for us; all of it must be off (libvirt: qemu.conf).
EMBEDDED_CONF = """\
stdio_handler = "file"
security_driver = "none"
namespaces = []
cgroup_controllers = []
dynamic_ownership = 0
"""


class HypervisorError(MachineError):
    """libvirt refused or could not do what was asked."""


class PortTakenError(HypervisorError):
    """Someone else has taken a loopback port that a host was to have."""


class Hypervisor(Protocol):
    """What a bed needs of whatever runs its hosts; tests have one of their own. Every method may raise HypervisorError."""

    def prepare(self) -> None:
        """Make ready what the hypervisor itself needs before its first domain."""

    def start(self, xml_paths: Sequence[Path]) -> list[str]:
        """Create transient domains from `xml_paths`; returns their names. Raises PortTakenError where other ports may help."""

    def states(self, names: Sequence[str]) -> dict[str, str]:
        """The state of each of `names` that exists: "running", "paused", ..."""

    def destroy(self, names: Sequence[str]) -> None:
        """End those of `names` that exist."""

    def end_strays(self, uuids: Collection[str]) -> None:
        """End every emulator of these domains that outlived `destroy`, as one does whose start was cut off."""

    def monitor(self, name: str, command: dict[str, Any]) -> Any:
        """Send one QMP command, `{"execute": ..., "arguments": ...}`, to domain `name` and return QMP's `return`."""

    def log_path(self, name: str) -> Path | None:
        """Where the emulator's own log of domain `name` lies, if that is on our side."""


@dataclass(frozen=True)
class Libvirt:
    """libvirt at `uri`, or its driver in a process of its own with `root` as its folder where `uri` is "embedded"."""

    uri: str
    root: Path

    def prepare(self) -> None:
        """Write the embedded driver's folder; nothing to do for a daemon."""
        if self.uri != EMBEDDED:
            return
        conf = self.root / "etc" / "qemu.conf"
        conf.parent.mkdir(parents=True, exist_ok=True)
        # Run by root, it would give QEMU to a user of its own, who may not read our files.
        stay_root = 'user = "+0"\ngroup = "+0"\n' if os.getuid() == 0 else ""
        conf.write_text(EMBEDDED_CONF + stay_root)
        self._share_capabilities()

    def start(self, xml_paths: Sequence[Path]) -> list[str]:
        """Create transient domains, side by side. Raises HypervisorError with libvirt's words."""
        try:
            return list(self._ask("start", xml_paths=[str(path) for path in xml_paths]))
        except HypervisorError as error:
            if "host forwarding rule" in str(error):
                raise PortTakenError(str(error)) from error
            raise

    def states(self, names: Sequence[str]) -> dict[str, str]:
        """The state of each of `names` that exists and answers."""
        return dict(self._ask("states", names=list(names)))

    def destroy(self, names: Sequence[str]) -> None:
        """End those of `names` that exist."""
        self._ask("destroy", names=list(names))

    def end_strays(self, uuids: Collection[str]) -> None:
        """Terminate, and after END_DEADLINE_S kill, every QEMU on this machine that has one of these domains."""
        deadline = Deadline.after(END_DEADLINE_S)
        while strays := list(emulators_of(uuids)):
            for process in strays:
                with suppress(psutil.NoSuchProcess):
                    process.terminate() if deadline.left_s else process.kill()
            time.sleep(0.1)

    def monitor(self, name: str, command: dict[str, Any]) -> Any:
        """Send one QMP command, `{"execute": ..., "arguments": ...}`, to domain `name` and return QMP's `return`."""
        return self._ask("monitor", name=name, command=command)

    def log_path(self, name: str) -> Path | None:
        """Where QEMU's own log of domain `name` lies, if that is on our side."""
        return self.root / "log" / "qemu" / f"{name}.log" if self.uri == EMBEDDED else None

    def _share_capabilities(self) -> None:
        """Asking QEMU what it can do takes libvirt seconds; its cache of the answers serves every bed of this user."""
        shared = user_cache() / "libvirt"
        shared.mkdir(parents=True, exist_ok=True)
        cache = self.root / "cache"
        if not cache.is_symlink():
            cache.symlink_to(shared)

    def _ask(self, verb: str, **request: object) -> Any:
        uri = f"qemu:///embed?root={self.root}" if self.uri == EMBEDDED else self.uri
        completed = subprocess.run(
            [sys.executable, "-m", "emulation.machines.domain"],
            input=json.dumps({"uri": uri, "verb": verb, **request}),
            capture_output=True,
            text=True,
            start_new_session=True,
            check=False,
        )
        self._keep_log(completed.stderr)
        if not completed.stdout:
            raise HypervisorError(
                f"libvirt {uri}: {verb} ended with status {completed.returncode}:\n{completed.stderr[-2000:]}"
            )
        reply = json.loads(completed.stdout)
        if "error" in reply:
            raise HypervisorError(f"libvirt {uri}: {verb}: {reply['error']}")
        return reply["ok"]

    def _keep_log(self, text: str) -> None:
        if self.root.is_dir():
            # Without room for a log a bed can still be ended.
            with suppress(OSError), (self.root / "libvirt.log").open("a") as log:
                log.write(text)


def emulators_of(uuids: Collection[str]) -> Iterable[psutil.Process]:
    """The processes of this machine that run a domain with one of these UUIDs. One that is not ours to look at is none."""
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if "-uuid" in arguments and not set(uuids).isdisjoint(arguments):
            yield process

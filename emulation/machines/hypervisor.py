"""A bed's hypervisor: the caller's side of `emulation.machines.domain`. Knows URI and root folder, not what is in a domain."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulation.errors import MachineError
from guest.image.cache import user_cache

EMBEDDED = "embedded"
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


@dataclass(frozen=True)
class Hypervisor:
    """libvirt at `uri`, or its driver inside our own process with `root` as its folder where `uri` is "embedded"."""

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

    def start(self, xml_paths: list[Path]) -> list[str]:
        """Create transient domains from `xml_paths`; returns their names. Raises HypervisorError with libvirt's words."""
        return list(self._ask("start", xml_paths=[str(path) for path in xml_paths]))

    def states(self, names: list[str]) -> dict[str, str]:
        """The state of each of `names` that exists."""
        return dict(self._ask("states", names=names))

    def destroy(self, names: list[str]) -> None:
        """End those of `names` that exist."""
        self._ask("destroy", names=names)

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
            with (self.root / "libvirt.log").open("a") as log:
                log.write(text)

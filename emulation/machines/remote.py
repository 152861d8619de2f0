"""The machine behind a `qemu+ssh://` URI: takes a bed's files to it, its guests' SSH ports from it, and clears up there.

Knows ssh, tar and paths; no domains. Files lie there where they lie here, so that one domain XML serves both; the account
must be able to write to those folders.

Why OpenSSH here and fabric for guests (guest.session): another machine is reached as its user reaches it, through jump hosts,
agents and hardware keys of ~/.ssh/config, which OpenSSH alone knows whole, and libvirt's own qemu+ssh goes the same way; the
tunnel outlives the command that opened it, as ControlMaster does. A guest is known by a key made for it, nothing of the
user's may have a say, and bytes stream both ways within our process.
"""

import shlex
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from emulation.errors import InputError, MachineError

SSH = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"]


class RemoteMachineError(MachineError):
    """The other machine cannot be reached, or refused; carries the command and what ssh said."""


@dataclass(frozen=True)
class RemoteMachine:
    """An account on another machine, reached as the user's own ssh reaches it. control: socket of the bed's tunnel."""

    target: str
    port: int | None
    control: Path

    @classmethod
    def of(cls, uri: str, control: Path) -> "RemoteMachine | None":
        """The machine that `uri` names; None where it names this one. Raises InputError for a transport other than ssh."""
        parts = urlsplit(uri)
        if not parts.hostname:
            return None
        if not parts.scheme.endswith("+ssh"):
            raise InputError(
                f"uri {uri}: another machine is reached over ssh alone (write qemu+ssh://{parts.netloc}/system)"
            )
        user = f"{parts.username}@" if parts.username else ""
        return cls(f"{user}{parts.hostname}", parts.port, control)

    def run_as(self) -> str:
        """The account's user and group, as libvirt wants them."""
        return "+" + ":+".join(self._ask("id -u; id -g").split())

    def send(self, paths: Iterable[Path]) -> None:
        """Copy files to where they lie here; a file that is there with the same size is not sent again."""
        sizes = {path: path.stat().st_size for path in paths}
        known = self._ask(
            "; ".join(f"stat -Lc '%s %n' {shlex.quote(str(path))} 2>/dev/null" for path in sizes) + "; true"
        )
        missing = [path for path, size in sizes.items() if f"{size} {path}" not in known.splitlines()]
        if not missing:
            return
        archive = ["tar", "--create", "--sparse", "--file=-", "--directory=/", *(str(path)[1:] for path in missing)]
        with subprocess.Popen(archive, stdout=subprocess.PIPE) as packing:
            self._ask("tar --extract --sparse --file=- --directory=/", stdin=packing.stdout)
        if packing.returncode != 0:
            raise RemoteMachineError(
                f"{self.target}: packing {', '.join(map(str, missing))} ended with {packing.returncode}"
            )

    def make_folders(self, folders: Iterable[str]) -> None:
        """Make folders there, for their owner alone."""
        self._ask(f"umask 077; mkdir -p {shlex.join(folders)}")

    def remove(self, folders: Iterable[str]) -> None:
        """Remove folders there with all that is in them."""
        self._ask(f"rm -rf {shlex.join(folders)}")

    def open_tunnel(self, ports: Iterable[int]) -> None:
        """Have each loopback port of that machine answer at the same port of this one, until close_tunnel."""
        forwards = [word for port in ports for word in ("-L", f"127.0.0.1:{port}:127.0.0.1:{port}")]
        options = ["-M", "-S", str(self.control), "-o", "ExitOnForwardFailure=yes", "-f", "-N"]
        self._run([*SSH, *self._place(), *options, *forwards, self.target], None)

    def close_tunnel(self) -> None:
        """End the tunnel if there is one."""
        if self.control.exists():
            self._run([*SSH, *self._place(), "-S", str(self.control), "-O", "exit", self.target], None)

    def _ask(self, command: str, stdin: IO[bytes] | None = None) -> str:
        return self._run([*SSH, *self._place(), self.target, command], stdin)

    def _place(self) -> list[str]:
        return [] if self.port is None else ["-p", str(self.port)]

    def _run(self, command: list[str], stdin: IO[bytes] | None) -> str:
        # A tunnel stays behind with its standard error open, so that goes to a file: a pipe would never end.
        with tempfile.TemporaryFile("w+") as said:
            ended = subprocess.run(
                command, stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True, check=False
            )
            said.seek(0)
            words = said.read().strip()[-500:]
        if ended.returncode != 0:
            raise RemoteMachineError(f"{shlex.join(command)} ended with status {ended.returncode}: {words}")
        return ended.stdout

"""What a bed leaves on disk so that another process can find it, ask it and end it. Knows files; makes and starts nothing.

One folder per bed, below `CXLBED_STATE_DIR` or /tmp/cxlbed-UID: short, since the path of a socket in it may have 107
characters in all. The record is written before anything is started: whatever a killed command left is found by it.
"""

import contextlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import filelock

from emulation.errors import InputError, MachineError
from emulation.files import write_whole
from guest.artefacts.cache import user_cache
from guest.keys import KeyPair

Accelerator = Literal["kvm", "tcg"]

NAME_RULE = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
RECORD = "bed.json"
MEMORY_FOLDER_PREFIX = "cxlbed-"  # of every folder of backing files: nothing else is ever removed as one
LONGEST_SOCKET_PATH = 107  # sun_path, less its end
LONGEST_SOCKET_BELOW = len(
    "/v/lib/qemu/domain-1-cxlbed-1234567890123/monitor.sock"
)  # libvirt cuts a domain's name at 20


@dataclass(frozen=True)
class HostRecord:
    """One host of a bed: how to reach it. stores: region or NUMA node -> its name for the runtime (`dax:/dev/dax0.0`)."""

    name: str
    domain: str
    uuid: str
    ssh_port: int
    stores: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BedRecord:
    """One bed: what is needed to find all that belongs to it. `ready_s` is None until every host is ready; emulator: the
    path of its QEMU; emulator_choice: which one that is, and why it was taken; maps_directly: whether it maps regions
    that are not interleaved."""

    name: str
    topology_json: str
    topology_name: str
    uri: str
    accelerator: Accelerator
    image_hash: str
    emulator: str
    emulator_choice: str
    maps_directly: bool
    memory_folder: str
    hosts: tuple[HostRecord, ...]
    ready_s: float | None = None
    plugged: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class BedFolder:
    """The folder of one bed and what lies where in it."""

    path: Path

    @property
    def hypervisor_root(self) -> Path:
        return self.path / "v"

    @property
    def key(self) -> Path:
        return self.path / "id_ed25519"

    def xml(self, host: str) -> Path:
        return self.path / f"{host}.xml"

    def initrd(self, host: str) -> Path:
        return self.path / f"{host}.initrd"

    def console(self, host: str) -> Path:
        return self.path / f"{host}.console"

    @property
    def public_key(self) -> Path:
        return self.path / "id_ed25519.pub"

    @property
    def known_hosts(self) -> Path:
        return self.path / "known_hosts"

    @property
    def tunnel(self) -> Path:
        """The control socket of the tunnel to another machine."""
        return self.path / "tunnel"

    def monitor(self, host: str) -> Path:
        return self.path / f"{host}.qmp"

    def make(self) -> None:
        """Make the folder, for its owner alone: it holds keys, and sockets by which hosts are ended."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def require_room_for_sockets(self) -> None:
        """Raise InputError where the embedded driver's sockets would have paths too long for the kernel."""
        excess = len(str(self.path)) + LONGEST_SOCKET_BELOW - LONGEST_SOCKET_PATH
        if excess > 0:
            raise InputError(
                f"bed '{self.path.name}': its folder {self.path} is {excess} characters too long for sockets below it;"
                " give a shorter --name, or set CXLBED_STATE_DIR to a shorter path"
            )

    def keep_key(self, pair: KeyPair) -> None:
        """Keep the bed's own SSH key, readable by its owner alone."""
        self.key.touch(0o600)
        self.key.write_bytes(pair.private)
        self.public_key.write_bytes(pair.public)

    def know_host(self, port: int, public: bytes) -> None:
        """Note a host key that SSH must find at `port`."""
        with self.known_hosts.open("ab") as known:
            known.write(f"[127.0.0.1]:{port} ".encode() + public)

    def write(self, record: BedRecord) -> None:
        """Replace the record whole, or leave the old one."""
        write_whole(self.path / RECORD, json.dumps(asdict(record), indent=1))

    def read(self) -> BedRecord | None:
        """The record, or None where no bed of this name is known. Raises MachineError for one that cannot be understood, or that
        somebody else has put there."""
        self._require_ours()
        try:
            text = (self.path / RECORD).read_text()
        except FileNotFoundError:
            return None
        try:
            fields: dict[str, Any] = json.loads(text)
            hosts = tuple(HostRecord(**host) for host in fields.pop("hosts"))
            return BedRecord(hosts=hosts, **fields)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MachineError(
                f"bed '{self.path.name}': {self.path / RECORD} is damaged or of another version of cxlbed ({error});"
                " end the bed with that version, or end its QEMU and remove the folder"
            ) from error

    def _require_ours(self) -> None:
        """Raise MachineError where the folder or its record is another user's, or lies elsewhere behind a link: what a record
        names is run and removed."""
        for path, is_right in ((self.path, stat.S_ISDIR), (self.path / RECORD, stat.S_ISREG)):
            try:
                status = path.lstat()
            except FileNotFoundError:
                return
            if status.st_uid != os.getuid() or not is_right(status.st_mode):
                raise MachineError(
                    f"bed '{self.path.name}': {path} is a link, or of user {status.st_uid}: cxlbed did not make it; remove it"
                )

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, deadline_s: float) -> Iterator[None]:
        """Hold the bed against other commands; a command that has it is waited for until the deadline. The lock's file goes
        with the bed."""
        lock = filelock.FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=deadline_s, poll_interval=0.1)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise MachineError(
                f"bed '{self.path.name}': another cxlbed has been at work on it for {deadline_s:.0f} s; wait for it or end it"
            ) from error
        try:
            yield
        finally:
            if not (self.path / RECORD).exists():
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


def state_root() -> Path:
    """The folder of all beds of this user; ours alone, or refused."""
    root = Path(os.environ.get("CXLBED_STATE_DIR") or f"/tmp/cxlbed-{os.getuid()}").absolute()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"state folder {root}: cannot be made ({error.strerror}); set CXLBED_STATE_DIR to a folder of yours"
        ) from error
    _require_private(root)
    return root


def _require_private(root: Path) -> None:
    """Raise MachineError where another user could put, or have put, a bed into the state folder."""
    for owner in {root.lstat().st_uid, root.stat().st_uid} - {os.getuid()}:  # of a link, and of what it leads to
        raise MachineError(f"state folder {root}: belongs to user {owner}; set CXLBED_STATE_DIR to a folder of yours")
    if root.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise MachineError(
            f"state folder {root}: mode={stat.S_IMODE(root.stat().st_mode):04o} lets others write in it; beds are read from there:"
            f" look what is in it, then chmod go-w {root}"
        )
    above = root.resolve().parent
    if above.stat().st_mode & stat.S_IWOTH and not above.stat().st_mode & stat.S_ISVTX:
        raise MachineError(
            f"state folder {root}: any user may replace it, since {above} is writable for all without the sticky bit;"
            " set CXLBED_STATE_DIR to a folder elsewhere"
        )


def bed_folder(name: str) -> BedFolder:
    """The folder of bed `name`, which need not exist. Raises InputError for a name that cannot be one."""
    if not NAME_RULE.fullmatch(name):
        raise InputError(f"bed name '{name}': must be 1 to 40 of a-z, 0-9 and '-', and not begin with '-'")
    return BedFolder(state_root() / name)


def bed_folders() -> list[BedFolder]:
    """Every bed that left a record, running or not."""
    return [BedFolder(record.parent) for record in sorted(state_root().glob(f"*/{RECORD}"))]


def kept_folder(name: str) -> Path:
    """A new folder for what a failed bed leaves to be read: its XML and logs."""
    folder = user_cache() / "failed" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder

"""A bed's life: up, status, down. Knows which bed is meant and whose turn it is; not how a bed is made or ended."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from emulation.errors import InputError, MachineError
from emulation.machines.backend import QEMU, Backend
from emulation.machines.hosts import BedStatus, Hosts
from emulation.machines.lanes import TakenLane
from emulation.machines.launch import Launch, Options
from emulation.machines.record import BedFolder, BedRecord, HostRecord, bed_folder, bed_folders
from emulation.say import Say
from guest.session import Session
from qemu_configs import picture
from qemu_configs.topology import Topology

LOCK_DEADLINE_S = 300.0
CONNECT_DEADLINE_S = 30.0


@dataclass(frozen=True)
class Bed:
    """A bed that is up."""

    hosts: Hosts
    topology: Topology

    @property
    def folder(self) -> BedFolder:
        return self.hosts.folder

    @property
    def record(self) -> BedRecord:
        return self.hosts.record

    def host(self, name: str) -> HostRecord:
        """The record of host `name`. Raises InputError for one that the bed does not have."""
        return self.hosts.host(name)

    @contextmanager
    def session(self, host: str) -> Iterator[Session]:
        """An SSH session to `host`, closed on leaving. Raises InputError for a host that the bed does not have."""
        with self.hosts.session(self.host(host)) as session:
            session.connect(CONNECT_DEADLINE_S)
            yield session

    @contextmanager
    def lane(self, host: str) -> Iterator[TakenLane | None]:
        """Memory shared with `host` for one agent's bulk bytes; None where there is none that is free."""
        with self.hosts.lane(self.host(host)) as taken:
            yield taken

    def monitor(self, host: str, command: dict[str, Any]) -> Any:
        """One QMP command, `{"execute": ..., "arguments": ...}`, to the QEMU of `host`; returns QMP's `return`."""
        return self.hosts.hypervisor.monitor(self.host(host).domain, command)

    def notes(self) -> list[str]:
        """What no stock kernel will do with this bed."""
        return [note for host in self.topology.hosts for note in picture.notes(self.topology, host)]

    def logs(self) -> dict[str, str]:
        """Each host's console and QEMU log, for whoever has to find out what went wrong."""
        return self.hosts.logs()


def up(topology: Topology, name: str, options: Options, progress: Say, backend: Backend = QEMU) -> Bed:
    """Bring bed `name` up, or return it if it is up already; leaves nothing behind if that fails.

    Raises InputError, MachineError, GuestError, PromiseError."""
    started_s = time.monotonic()
    folder = bed_folder(name)
    with folder.lock(LOCK_DEADLINE_S):
        if standing := _standing(folder, topology, backend):
            return standing
        launch = Launch.of(folder, topology, options, progress, backend)
        with launch.ended_on_failure():
            launch.write_record()
            launch.start()
            launch.provision()
            launch.finish(started_s)
    return Bed(launch.hosts, topology)


@contextmanager
def booted(topology: Topology, name: str, options: Options, progress: Say, backend: Backend = QEMU) -> Iterator[Bed]:
    """Bed `name` while the body runs; it is ended with it, whatever happens."""
    try:
        yield up(topology, name, options, progress, backend)
    finally:
        down(name, progress, backend)


def find(name: str, must_be_ready: bool = True, backend: Backend = QEMU) -> Bed:
    """The bed `name` that is up, or also one that is on its way. Raises InputError where there is none."""
    folder = bed_folder(name)
    record = folder.read()
    if record is None or (must_be_ready and record.ready_s is None):
        names = ", ".join(known.path.name for known in bed_folders())
        fate = "is not ready yet, or its up was cut off" if record else f"is not up (known beds: {names or 'none'})"
        raise InputError(f"bed '{name}': {fate}; try: cxlbed up {name}")
    try:
        topology = Topology.model_validate_json(record.topology_json).with_plugged(record.plugged)
        return Bed(Hosts.of(folder, record, backend), topology)
    except ValueError as error:
        raise MachineError(f"bed '{name}': comes from another version of cxlbed; end it: cxlbed down {name}") from error


def down(name: str, progress: Say, backend: Backend = QEMU) -> bool:
    """End bed `name` and remove what it left, whatever state a killed command left it in. Returns whether there was one."""
    folder = bed_folder(name)
    with folder.lock(LOCK_DEADLINE_S):
        record = folder.read()
        if record is None:
            return False
        progress(f"ending {name}")
        Hosts.of(folder, record, backend).end()
    return True


def down_all(progress: Say, backend: Backend = QEMU) -> list[str]:
    """End every bed of this user; returns their names. One that cannot be ended is named when all others have been."""
    ended, failures = [], []
    for folder in bed_folders():
        try:
            if down(folder.path.name, progress, backend):
                ended.append(folder.path.name)
        except MachineError as error:
            failures.append(str(error))
    if failures:
        raise MachineError("\n".join([f"ended {', '.join(ended) or 'no bed'}, but:", *failures]))
    return ended


def status(backend: Backend = QEMU) -> list[BedStatus]:
    """What every bed of this user is: name, topology, accelerator, hosts with their state and how to reach them."""
    return [Hosts.of(folder, record, backend).status() for folder in bed_folders() if (record := folder.read())]


def _standing(folder: BedFolder, topology: Topology, backend: Backend) -> Bed | None:
    """The bed in `folder` if every host of it runs; what is left of any other is ended."""
    record = folder.read()
    if record is None:
        return None
    hosts = Hosts.of(folder, record, backend)
    if not hosts.are_ready():
        hosts.end()
        return None
    if record.topology_json != topology.model_dump_json():
        raise InputError(
            f"bed '{record.name}': is up from another bed file; end it (cxlbed down {record.name}) or give this one a --name"
        )
    return Bed(hosts, topology.with_plugged(record.plugged))

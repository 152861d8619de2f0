"""The hosts of one bed as they run: asked, reached, ended. Knows hypervisor, other machine and sessions; not how hosts are
made.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from emulation.errors import InputError
from emulation.machines.backend import Backend
from emulation.machines.hypervisor import Hypervisor, HypervisorError
from emulation.machines.lanes import TakenLane, taken_lane
from emulation.machines.record import MEMORY_FOLDER_PREFIX, BedFolder, BedRecord, HostRecord
from emulation.machines.remote import RemoteMachine
from guest.session import Session
from qemu_configs import render
from qemu_configs.topology import Topology


@dataclass(frozen=True)
class HostStatus:
    """One host for `status` and --json. state: libvirt's, "gone", or "unknown: " and why; regions: how the guest reaches each,
    "direct" or, access by access, "mmio"."""

    name: str
    state: str
    ssh_port: int
    domain: str
    regions: dict[str, str]


@dataclass(frozen=True)
class BedStatus:
    """One bed for `status` and --json. ready_s: seconds that `up` took, None until every host is ready; emulator: which QEMU
    runs it, and why."""

    name: str
    topology: str
    uri: str
    accelerator: str
    emulator: str
    ready_s: float | None
    folder: str
    hosts: tuple[HostStatus, ...]


@dataclass(frozen=True)
class Hosts:
    """The hosts of one bed. remote: the machine that runs them, None where it is this one."""

    folder: BedFolder
    record: BedRecord
    hypervisor: Hypervisor
    remote: RemoteMachine | None
    backend: Backend

    @classmethod
    def of(cls, folder: BedFolder, record: BedRecord, backend: Backend) -> Self:
        """The hosts that `record` tells of; asks nobody yet."""
        hypervisor = backend.hypervisor(record.uri, folder.hypervisor_root)
        return cls(folder, record, hypervisor, RemoteMachine.of(record.uri, folder.tunnel), backend)

    @property
    def domains(self) -> list[str]:
        return [host.domain for host in self.record.hosts]

    def host(self, name: str) -> HostRecord:
        """The record of host `name`. Raises InputError for one that the bed does not have."""
        for host in self.record.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.record.hosts)
        raise InputError(f"bed '{self.record.name}': no host '{name}' (it has {known})")

    def session(self, host: HostRecord) -> Session:
        """A session to `host`, not connected yet."""
        console = self.folder.console(host.name) if self.remote is None else None
        return self.backend.session(host.ssh_port, self.folder.key, self.folder.known_hosts, console)

    @contextmanager
    def lane(self, host: HostRecord) -> Iterator[TakenLane | None]:
        """A lane of the memory that this machine shares with `host`, for one agent; None where it shares none that is free."""
        if self.remote is not None:
            yield None
            return
        with taken_lane(render.exchange_file(host.name, Path(self.record.memory_folder))) as taken:
            yield taken

    def are_ready(self) -> bool:
        """Whether `up` came to its end and every host still runs."""
        states = self.hypervisor.states(self.domains)
        return self.record.ready_s is not None and all(states.get(domain) == "running" for domain in self.domains)

    def status(self) -> BedStatus:
        """What the bed is now; hosts of a hypervisor that does not answer are "unknown"."""
        try:
            states, lost = self.hypervisor.states(self.domains), "gone"
        except HypervisorError as error:
            states, lost = {}, f"unknown: {error}"
        record = self.record
        hosts = tuple(
            HostStatus(host.name, states.get(host.domain, lost), host.ssh_port, host.domain, self._regions(host.name))
            for host in record.hosts
        )
        return BedStatus(
            name=record.name,
            topology=record.topology_name,
            uri=record.uri,
            accelerator=record.accelerator,
            emulator=record.emulator_choice,
            ready_s=record.ready_s,
            folder=str(self.folder.path),
            hosts=hosts,
        )

    def _regions(self, host: str) -> dict[str, str]:
        """How the guest reaches each of its regions; nothing for a bed of another version."""
        try:
            topology = Topology.model_validate_json(self.record.topology_json)
        except ValueError:
            return {}
        return {
            region.name: "direct" if self.record.maps_directly and len(region.devices) == 1 else "mmio"
            for region in topology.host(host).regions
        }

    def logs(self) -> dict[str, str]:
        """Each host's console and QEMU log, those that are there."""
        paths = {f"{host.name} console": self.folder.console(host.name) for host in self.record.hosts}
        for host in self.record.hosts:
            if log := self.hypervisor.log_path(host.domain):
                paths[f"{host.name} QEMU log"] = log
        return {name: path.read_text(errors="replace") for name, path in paths.items() if path.exists()}

    def end(self) -> None:
        """End every domain, wait until its QEMU is gone, remove the files; the record goes last. Raises HypervisorError or
        RemoteMachineError, with everything left as it is, where another machine does not do its part."""
        try:
            self.hypervisor.destroy(self.domains)
        except (HypervisorError, OSError) as error:  # OSError: no room to ask in; what follows needs none
            if self.remote is not None:
                raise HypervisorError(
                    f"{error}; hosts of bed '{self.record.name}' may still run on {self.remote.target}: try again when it"
                    f" answers, or remove {self.folder.path} to forget them"
                ) from error
        if self.remote is not None:
            self.remote.close_tunnel()
            self.remote.remove([self.record.memory_folder, str(self.folder.path)])
        self.hypervisor.end_strays([host.uuid for host in self.record.hosts])
        if Path(self.record.memory_folder).name.startswith(MEMORY_FOLDER_PREFIX):
            shutil.rmtree(self.record.memory_folder, ignore_errors=True)
        self.folder.remove()

"""One bed on its way up: image, record, domains, regions. Knows the order of things and what each step needs; not libvirt's
words, not what a guest runs.
"""

import os
import secrets
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import guest
import guest.agent
import sac_runtime
from emulation.errors import InputError, MachineError
from emulation.machines.backend import Backend
from emulation.machines.emulator.choice import BACK_INVALIDATE_QEMU, Emulator, dotted
from emulation.machines.hosts import Hosts
from emulation.machines.hypervisor import EMBEDDED, HypervisorError, PortTakenError
from emulation.machines.kvm import choose
from emulation.machines.ports import free_ports
from emulation.machines.promise import require_promise
from emulation.machines.record import MEMORY_FOLDER_PREFIX, Accelerator, BedFolder, BedRecord, HostRecord, kept_folder
from emulation.machines.remote import RemoteMachine
from emulation.machines.side_by_side import side_by_side
from emulation.say import Say
from guest.image.cache import GuestImage
from guest.image.initramfs import write_initrd
from guest.inventory import Inventory
from guest.keys import guest_files, make_key
from guest.provision import RegionOrder, provision
from guest.session import PYTHON_PATH
from qemu_configs import render
from qemu_configs.picture import Picture, picture_of
from qemu_configs.topology import Host, Topology
from qemu_configs.type3 import backends
from sac_runtime.memory.spec import StoreSpec
from sac_runtime.native import LIBRARY

PORT_TRIES = 3
LOG_TAIL_LINES = 8


@dataclass(frozen=True)
class Options:
    """How a bed is brought up, apart from what its file says. `memory_folder` holds the backing files of shared devices;
    `emulator` is "auto", "bundled", "system" or a path, None what CXLBED_EMULATOR says."""

    uri: str = EMBEDDED
    accelerator: str = "auto"
    memory_folder: Path = Path("/dev/shm")
    emulator: str | None = None
    ready_deadline_s: float = 120.0

    def __post_init__(self) -> None:
        if self.accelerator not in ("auto", "kvm", "tcg"):
            raise InputError(f"accelerator '{self.accelerator}': must be auto, kvm or tcg")
        if not self.ready_deadline_s > 0:
            raise InputError(f"bed: ready_deadline_s={self.ready_deadline_s} must be a number of seconds above 0")


class LaunchError(MachineError):
    """A host did not start; carries the XML's path, libvirt's words and the tail of QEMU's log."""


@dataclass
class Launch:
    """One bed on its way up. `hosts` holds its folder, record, hypervisor and other machine; the record grows from step to
    step and is on disk before what it tells of begins. run_as: "+UID:+GID" that a privileged daemon must run QEMU as."""

    hosts: Hosts
    topology: Topology
    image: GuestImage
    emulator: Emulator
    run_as: str | None
    ready_deadline_s: float
    progress: Say

    @classmethod
    def of(cls, folder: BedFolder, topology: Topology, options: Options, progress: Say, backend: Backend) -> Self:
        """Check that there is room, reach the machine, get the image, choose the accelerator. Leaves nothing behind.
        Raises InputError, MachineError, ImageError."""
        remote = RemoteMachine.of(options.uri, folder.tunnel)
        if options.uri == EMBEDDED:
            folder.require_room_for_sockets()
        if remote is None:
            _require_room(options.memory_folder, topology)
        run_as = _run_as(options.uri, remote)
        image = backend.image(progress)
        emulator = backend.emulator(options.emulator, remote is None and not options.uri.endswith("/system"), progress)
        _require_features(topology, emulator)
        accelerator = choose(options.accelerator, image, emulator.path, remote is None).accelerator
        record = _first_record(folder.path.name, topology, options, image, emulator, accelerator)
        return cls(
            Hosts.of(folder, record, backend), topology, image, emulator, run_as, options.ready_deadline_s, progress
        )

    @contextmanager
    def ended_on_failure(self) -> Iterator[None]:
        """Whatever cuts the body off, Ctrl-C too, nothing of the bed is left."""
        try:
            yield
        except BaseException:
            self.hosts.end()
            raise

    def write_record(self) -> None:
        """Leave the record: from here on, whatever happens to this process, `down` finds all that belongs to the bed."""
        self.hosts.folder.make()
        self._note()

    def start(self) -> None:
        """Start every host; a port that someone else took meanwhile costs a new try with other ports. Raises LaunchError."""
        names = ", ".join(host.name for host in self.hosts.record.hosts)
        self.progress(f"starting {names} ({self.hosts.record.accelerator})")
        self._make_folders()
        self.hosts.hypervisor.prepare()
        self.hosts.folder.keep_key(make_key())
        for tries_left in reversed(range(PORT_TRIES)):
            self._take_ports()
            try:
                self._start_hosts()
                break
            except HypervisorError as error:
                if not (tries_left and isinstance(error, PortTakenError)):
                    raise LaunchError(self._failure(error)) from error
                self.hosts.hypervisor.destroy(self.hosts.domains)

    def provision(self) -> None:
        """Wait for every host, set its regions up and compare it with the bed file; side by side. Raises GuestError where a
        host is silent or fails, PromiseError where it shows something else."""
        stores: dict[str, dict[str, str]] = {}

        def one(host: HostRecord) -> None:
            stores[host.name] = self._provision_host(host)

        side_by_side([partial(one, host) for host in self.hosts.record.hosts])
        self._note(hosts=tuple(replace(host, stores=stores[host.name]) for host in self.hosts.record.hosts))

    def finish(self, started_s: float) -> None:
        """Say in the record that the bed is ready. started_s: by time.monotonic(), when it was asked for."""
        self._note(ready_s=round(time.monotonic() - started_s, 2))

    def _note(self, **changes: Any) -> None:
        """Put `changes` into the record, here and on disk."""
        self.hosts = replace(self.hosts, record=replace(self.hosts.record, **changes))
        self.hosts.folder.write(self.hosts.record)

    def _make_folders(self) -> None:
        memory_folder = self.hosts.record.memory_folder
        if self.hosts.remote is None:
            Path(memory_folder).mkdir(mode=0o700, parents=True)
            for (
                device
            ) in self.topology.devices:  # QEMU fills them; made by it, all users of this machine could read them
                for backend in backends(device, Path(memory_folder)):
                    Path(str(backend["mem-path"])).touch(0o600)
        else:
            self.hosts.remote.make_folders([str(self.hosts.folder.path), memory_folder])

    def _take_ports(self) -> None:
        hosts = self.hosts.record.hosts
        ports = free_ports(len(hosts))
        self._note(hosts=tuple(replace(host, ssh_port=port) for host, port in zip(hosts, ports, strict=True)))

    def _start_hosts(self) -> None:
        hosts, folder, remote = self.hosts.record.hosts, self.hosts.folder, self.hosts.remote
        xml_paths = [self._write_host(host) for host in hosts]
        if remote is not None:
            remote.send([self.image.kernel, self.image.disk, *(folder.initrd(host.name) for host in hosts)])
        self.hosts.hypervisor.start(xml_paths)
        if remote is not None:
            remote.open_tunnel(host.ssh_port for host in hosts)

    def _write_host(self, host: HostRecord) -> Path:
        """Write the host's initramfs (image plus what only this bed has) and its domain XML; returns the XML's path."""
        folder, host_key = self.hosts.folder, make_key()
        files: dict[str, bytes | Path] = dict(guest_files(host.name, folder.public_key.read_bytes(), host_key))
        write_initrd(self.image.initrd, files | carried(), folder.initrd(host.name))
        folder.know_host(host.ssh_port, host_key.public)
        xml = render.domain_xml(self.topology, self.topology.host(host.name), self._host_launch(host))
        folder.xml(host.name).write_text(xml)
        return folder.xml(host.name)

    def _host_launch(self, host: HostRecord) -> render.HostLaunch:
        folder, record = self.hosts.folder, self.hosts.record
        return render.HostLaunch(
            domain_name=host.domain,
            uuid=host.uuid,
            emulator=self.emulator.path,
            accelerator=record.accelerator,
            kernel=self.image.kernel,
            initrd=folder.initrd(host.name),
            kernel_cmdline=self.image.cmdline,
            disk=self.image.disk,
            ssh_port=host.ssh_port,
            console=folder.console(host.name),
            monitor=folder.monitor(host.name),
            backing_folder=Path(record.memory_folder),
            run_as=self.run_as,
        )

    def _provision_host(self, host: HostRecord) -> dict[str, str]:
        """Bring one host to what the bed file says; returns its stores by name."""
        asked = self.topology.host(host.name)
        picture = picture_of(self.topology, asked)
        with self.hosts.session(host) as session:
            session.connect(deadline_s=self.ready_deadline_s)
            self.progress(f"{host.name}: answers")
            serials = [memdev.serial for memdev in picture.memdevs]
            inventory = provision(session, serials, region_orders(picture))
        require_promise(picture, inventory)
        self.progress(f"{host.name}: shows what the bed file promises")
        return stores_of(self.topology, asked, inventory)

    def _failure(self, error: HypervisorError) -> str:
        """What to read after a launch that failed, with a copy of the XML and logs that outlives the bed."""
        record, folder = self.hosts.record, self.hosts.folder
        unwanted = shutil.ignore_patterns("*.initrd", "id_*", "*.sock")
        kept = shutil.copytree(folder.path, kept_folder(record.name), symlinks=True, ignore=unwanted)
        lines = [f"bed '{record.name}': QEMU did not start: {error}"]
        for host in record.hosts:
            lines.append(f"  domain XML: {kept / folder.xml(host.name).name}")
            log = self.hosts.hypervisor.log_path(host.domain)
            if log and log.exists():
                tail = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
                lines += ["  QEMU's log ends:", *(f"    {line}" for line in tail)]
        return "\n".join(lines)


def carried() -> dict[str, Path]:
    """What every guest has on its Python path: the agent, the runtime that it drives by default, and its native library, as
    the guest has no compiler. Raises SacError where that cannot be built here."""
    runtime = f"{PYTHON_PATH}/sac_runtime"
    return {
        f"{PYTHON_PATH}/guest/__init__.py": Path(guest.__file__),
        f"{PYTHON_PATH}/guest/agent": Path(guest.agent.__file__).parent,
        runtime: Path(sac_runtime.__file__).parent,
        f"{runtime}/native/{LIBRARY.in_package.name}": LIBRARY.path(),
    }


def region_orders(picture: Picture) -> list[RegionOrder]:
    """The regions of a picture as the guest is told to make them: the kernel numbers root decoders as the bed file orders
    its windows."""
    numbers = {window.name: number for number, window in enumerate(picture.windows)}
    return [
        RegionOrder(
            name=region.name,
            window=numbers[region.window],
            size_bytes=region.size_bytes,
            granularity_bytes=region.granularity_bytes,
            mode=region.mode,
            serials=region.serials,
        )
        for region in picture.regions
    ]


def stores_of(topology: Topology, host: Host, inventory: Inventory) -> dict[str, str]:
    """Every region and every NUMA node without CPUs, by name, as the runtime maps it."""
    stores = {node.name: str(StoreSpec.numa(number)) for number, node in enumerate(host.numa_nodes, start=1)}
    alike: Counter[tuple[int, ...]] = Counter()
    for region in picture_of(topology, host).regions:
        shown = inventory.region_of(region.serials, alike[region.serials])
        alike[region.serials] += 1
        assert shown is not None  # the promise was kept
        if region.mode == "system-ram":
            assert shown.target_node is not None  # as above
            stores[region.name] = str(StoreSpec.numa(shown.target_node))
        else:
            stores[region.name] = str(StoreSpec.dax(shown.dax_path))
    return stores


def _first_record(
    name: str, topology: Topology, options: Options, image: GuestImage, emulator: Emulator, accelerator: Accelerator
) -> BedRecord:
    hosts = tuple(
        HostRecord(host.name, f"cxlbed-{name}-{host.name}", str(uuid.uuid4()), ssh_port=0) for host in topology.hosts
    )
    return BedRecord(
        name=name,
        topology_json=topology.model_dump_json(),
        topology_name=topology.name,
        uri=options.uri,
        accelerator=accelerator,
        image_hash=image.hash,
        emulator=str(emulator.path),
        emulator_choice=str(emulator),
        maps_directly=emulator.maps_directly,
        memory_folder=str(options.memory_folder / f"{MEMORY_FOLDER_PREFIX}{name}-{secrets.token_hex(4)}"),
        hosts=hosts,
    )


def _require_features(topology: Topology, emulator: Emulator) -> None:
    """Raise InputError for a device that asks for more than the emulator has."""
    for device in topology.devices:
        if device.back_invalidate and emulator.version < BACK_INVALIDATE_QEMU:
            raise InputError(
                f"device '{device.name}': back_invalidate=true needs QEMU {dotted(BACK_INVALIDATE_QEMU)} or newer; this bed runs"
                f" with {emulator}; give --emulator bundled"
            )


def _require_room(memory_folder: Path, topology: Topology) -> None:
    """The files behind devices are sparse; written to where there is no room, they would end QEMU with SIGBUS."""
    if not memory_folder.is_dir():
        raise InputError(f"memory folder {memory_folder}: is no folder; give one that exists with --memory-folder")
    needed = sum(device.backed_bytes for device in topology.devices) + len(topology.hosts) * render.EXCHANGE_BYTES
    free = shutil.disk_usage(memory_folder).free
    if free < needed:
        raise MachineError(
            f"memory folder {memory_folder}: {free >> 20} MiB free, the bed's devices hold {needed >> 20},"
            " exchange regions included;"
            " free some, enlarge it, or give another folder with --memory-folder"
        )


def _run_as(uri: str, remote: RemoteMachine | None) -> str | None:
    """Whom a privileged daemon must run QEMU as to let it read the bed's files: us, or our account there."""
    if remote is not None:
        return remote.run_as()
    is_privileged = uri != EMBEDDED and (uri.endswith("/system") or os.getuid() == 0)
    return f"+{os.getuid()}:+{os.getgid()}" if is_privileged else None

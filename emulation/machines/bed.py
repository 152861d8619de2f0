"""A bed's life: up, status, down. Knows the order of things and how to leave nothing behind; not libvirt, not SSH."""

import os
import secrets
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import guest
import guest.agent
import sac_runtime
from emulation.errors import InputError, MachineError
from emulation.machines import kvm as accelerator
from emulation.machines import record as state
from emulation.machines.hypervisor import EMBEDDED, HypervisorError
from emulation.machines.promise import require_promise
from emulation.machines.record import BedFolder, BedRecord, HostRecord
from guest.image import cache as image
from guest.image.cache import GuestImage
from guest.image.initramfs import write_initrd
from guest.inventory import Inventory
from guest.keys import guest_files, make_key
from guest.provision import RegionOrder, provision
from guest.session import PYTHON_PATH, Session
from qemu_configs import picture, render
from qemu_configs.picture import Picture
from qemu_configs.topology import Host, Topology
from sac_runtime.memory.spec import StoreSpec
from sac_runtime.native import LIBRARY

Say = Callable[[str], None]
EMULATOR = "qemu-system-x86_64"
PORT_TRIES = 3
LOCK_DEADLINE_S = 300.0
END_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Options:
    """How a bed is brought up, apart from what its file says. `memory_folder` holds the backing files of shared devices."""

    uri: str = EMBEDDED
    accelerator: str = "auto"
    memory_folder: Path = Path("/dev/shm")
    ready_deadline_s: float = 120.0

    def __post_init__(self) -> None:
        if self.accelerator not in ("auto", "kvm", "tcg"):
            raise InputError(f"accelerator '{self.accelerator}': must be auto, kvm or tcg")


class LaunchError(MachineError):
    """A host did not start; carries the XML's path, libvirt's words and the tail of QEMU's log."""


@dataclass(frozen=True)
class Bed:
    """A bed that is up."""

    folder: BedFolder
    record: BedRecord
    topology: Topology

    @contextmanager
    def session(self, host: str) -> Iterator[Session]:
        """An SSH session to `host`, closed on leaving. Raises InputError for a host that the bed does not have."""
        with _session(self.folder, self.record.uri, self.host(host)) as session:
            session.connect(deadline_s=30.0)
            yield session

    def host(self, name: str) -> HostRecord:
        """The record of host `name`."""
        for host in self.record.hosts:
            if host.name == name:
                return host
        raise InputError(
            f"bed '{self.record.name}': no host '{name}' (it has {', '.join(host.name for host in self.record.hosts)})"
        )

    def monitor(self, host: str, command: dict[str, Any]) -> Any:
        """One QMP command, `{"execute": ..., "arguments": ...}`, to the QEMU of `host`; returns QMP's `return`."""
        return self.folder.hypervisor(self.record.uri).monitor(self.host(host).domain, command)

    def notes(self) -> list[str]:
        """What no stock kernel will do with this bed."""
        return [note for host in self.topology.hosts for note in picture.notes(self.topology, host)]

    def logs(self) -> dict[str, str]:
        """Each host's console and QEMU log, for whoever has to find out what went wrong."""
        hypervisor = self.folder.hypervisor(self.record.uri)
        paths = {f"{host.name} console": self.folder.console(host.name) for host in self.record.hosts}
        paths |= {
            f"{host.name} QEMU log": log for host in self.record.hosts if (log := hypervisor.log_path(host.domain))
        }
        return {name: path.read_text(errors="replace") for name, path in paths.items() if path.exists()}


def up(bed_topology: Topology, name: str, options: Options, progress: Say) -> Bed:
    """Bring bed `name` up, or return it if it is up already; leaves nothing behind if that fails.

    Raises BedFileError, MachineError, GuestError."""
    started = time.monotonic()
    folder = state.folder(name)
    with folder.lock(LOCK_DEADLINE_S):
        if standing := _standing(folder, bed_topology):
            return standing
        if options.uri == EMBEDDED:
            folder.require_room_for_sockets()
        elsewhere = folder.elsewhere(options.uri)
        if elsewhere is None:
            _require_room(options.memory_folder, bed_topology)
        else:
            elsewhere.run_as()  # reach it before anything is left behind
        guest_image = image.ensure(progress)
        chosen = accelerator.choose(options.accelerator, guest_image, _emulator(), elsewhere is None).accelerator
        record = _record(bed_topology, name, options, guest_image, chosen)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write(record)
        try:
            record = _launch(folder, record, bed_topology, guest_image, progress)
            record = _provision(folder, record, bed_topology, options, progress)
        except BaseException:
            _end(folder, record)
            raise
        record = replace(record, ready_s=round(time.monotonic() - started, 2))
        folder.write(record)
    return Bed(folder, record, bed_topology)


@contextmanager
def booted(bed_topology: Topology, name: str, options: Options, progress: Say) -> Iterator[Bed]:
    """Bed `name` while the body runs; it is ended with it, whatever happens."""
    try:
        yield up(bed_topology, name, options, progress)
    finally:
        down(name, progress)


def find(name: str, must_be_ready: bool = True) -> Bed:
    """The bed `name` that is up, or also one that is on its way. Raises InputError where there is none."""
    folder = state.folder(name)
    record = folder.read()
    if record is None or (must_be_ready and record.ready_s is None):
        names = ", ".join(known.path.name for known in state.all_folders())
        fate = "is not ready yet, or its up was cut off" if record else f"is not up (known beds: {names or 'none'})"
        raise InputError(f"bed '{name}': {fate}; try: cxlbed up {name}")
    try:
        return Bed(folder, record, Topology.model_validate_json(record.topology_json))
    except ValueError as error:
        raise MachineError(f"bed '{name}': comes from another version of cxlbed; end it: cxlbed down {name}") from error


def down(name: str, progress: Say) -> bool:
    """End bed `name` and remove what it left, whatever state a killed command left it in. Returns whether there was one."""
    folder = state.folder(name)
    with folder.lock(LOCK_DEADLINE_S):
        record = folder.read()
        if record is None:
            return False
        progress(f"ending {name}")
        _end(folder, record)
    return True


def down_all(progress: Say) -> list[str]:
    """End every bed of this user; returns their names. One that cannot be ended is named when all others have been."""
    ended, failures = [], []
    for folder in state.all_folders():
        try:
            if down(folder.path.name, progress):
                ended.append(folder.path.name)
        except MachineError as error:
            failures.append(str(error))
    if failures:
        raise MachineError("\n".join([f"ended {', '.join(ended) or 'no bed'}, but:", *failures]))
    return ended


def status() -> list[dict[str, Any]]:
    """What every bed of this user is: name, topology, accelerator, hosts with their state and how to reach them."""
    return [describe(folder, record) for folder in state.all_folders() if (record := folder.read())]


def describe(folder: BedFolder, record: BedRecord) -> dict[str, Any]:
    """What one bed is, for `status` and --json."""
    try:
        states = folder.hypervisor(record.uri).states([host.domain for host in record.hosts])
        lost = "gone"
    except HypervisorError as error:
        states, lost = {}, f"unknown: {error}"
    return {
        "name": record.name,
        "topology": record.topology_name,
        "uri": record.uri,
        "accelerator": record.accelerator,
        "ready_s": record.ready_s,
        "folder": str(folder.path),
        "hosts": [
            {
                "name": host.name,
                "state": states.get(host.domain, lost),
                "ssh_port": host.ssh_port,
                "domain": host.domain,
            }
            for host in record.hosts
        ],
    }


def _standing(folder: BedFolder, wanted: Topology) -> Bed | None:
    """The bed in `folder` if every host of it runs; what is left of any other is ended."""
    record = folder.read()
    if record is None:
        return None
    states = folder.hypervisor(record.uri).states([host.domain for host in record.hosts])
    if record.ready_s is None or any(states.get(host.domain) != "running" for host in record.hosts):
        _end(folder, record)
        return None
    if record.topology_json != wanted.model_dump_json():
        raise InputError(
            f"bed '{record.name}': is up from another bed file; end it (cxlbed down {record.name}) or give this one a --name"
        )
    return Bed(folder, record, wanted)


def _record(
    bed: Topology, name: str, options: Options, guest_image: GuestImage, chosen: state.Accelerator
) -> BedRecord:
    hosts = tuple(
        HostRecord(host.name, f"cxlbed-{name}-{host.name}", str(uuid.uuid4()), ssh_port=0) for host in bed.hosts
    )
    return BedRecord(
        name=name,
        topology_json=bed.model_dump_json(),
        topology_name=bed.name,
        uri=options.uri,
        accelerator=chosen,
        image_hash=guest_image.hash,
        memory_folder=str(options.memory_folder / f"cxlbed-{name}-{secrets.token_hex(4)}"),
        hosts=hosts,
    )


def _require_room(memory_folder: Path, bed: Topology) -> None:
    """The files behind devices are sparse; written to where there is no room, they would end QEMU with SIGBUS."""
    if not memory_folder.is_dir():
        raise InputError(f"memory folder {memory_folder}: is no folder; give one that exists with --memory-folder")
    needed = sum(device.capacity_bytes for device in bed.devices)
    free = shutil.disk_usage(memory_folder).free
    if free < needed:
        raise MachineError(
            f"memory folder {memory_folder}: {free >> 20} MiB free, the bed's devices hold {needed >> 20};"
            " free some, enlarge it, or give another folder with --memory-folder"
        )


def _launch(folder: BedFolder, record: BedRecord, bed: Topology, guest_image: GuestImage, progress: Say) -> BedRecord:
    """Start every host; a port that someone else took meanwhile costs a new try with other ports."""
    progress(f"starting {', '.join(host.name for host in record.hosts)} ({record.accelerator})")
    elsewhere = folder.elsewhere(record.uri)
    if elsewhere is None:
        Path(record.memory_folder).mkdir(parents=True)
    else:
        elsewhere.make_folders([str(folder.path), record.memory_folder])
    hypervisor = folder.hypervisor(record.uri)
    hypervisor.prepare()
    folder.make_key()
    for tries_left in reversed(range(PORT_TRIES)):
        record = _with_free_ports(record)
        folder.write(record)
        xml_paths = [_write_host(folder, record, bed, guest_image, host) for host in record.hosts]
        try:
            if elsewhere is not None:
                initrds = [folder.initrd(host.name) for host in record.hosts]
                elsewhere.send([guest_image.kernel, guest_image.disk, *initrds])
            hypervisor.start(xml_paths)
            if elsewhere is not None:
                elsewhere.open_tunnel(host.ssh_port for host in record.hosts)
            return record
        except HypervisorError as error:
            if tries_left and "host forwarding rule" in str(error):
                hypervisor.destroy([host.domain for host in record.hosts])
                continue
            raise LaunchError(_launch_report(folder, record, error)) from error
    raise AssertionError("the last try returns or raises")


def _launch_report(folder: BedFolder, record: BedRecord, error: HypervisorError) -> str:
    lines = [f"bed '{record.name}': QEMU did not start: {error}"]
    hypervisor = folder.hypervisor(record.uri)
    unwanted = shutil.ignore_patterns("*.initrd", "id_*", "*.sock")
    kept = shutil.copytree(folder.path, state.kept_folder(record.name), symlinks=True, ignore=unwanted)
    for host in record.hosts:
        lines.append(f"  domain XML: {kept / folder.xml(host.name).name}")
        log = hypervisor.log_path(host.domain)
        if log and log.exists():
            lines += [
                "  QEMU's log ends:",
                *(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-8:]),
            ]
    return "\n".join(lines)


def _write_host(folder: BedFolder, record: BedRecord, bed: Topology, guest_image: GuestImage, host: HostRecord) -> Path:
    """Write the host's initramfs (image plus what only this bed has) and its domain XML; returns the XML's path."""
    host_key = make_key()
    files: dict[str, bytes | Path] = dict(guest_files(host.name, folder.public_key.read_bytes(), host_key))
    write_initrd(guest_image.initrd, files | carried(), folder.initrd(host.name))
    folder.know_host(host.ssh_port, host_key.public)
    launch = render.HostLaunch(
        domain_name=host.domain,
        uuid=host.uuid,
        emulator=Path(_emulator()),
        accelerator=record.accelerator,
        kernel=guest_image.kernel,
        initrd=folder.initrd(host.name),
        kernel_cmdline=guest_image.cmdline,
        disk=guest_image.disk,
        ssh_port=host.ssh_port,
        console=folder.console(host.name),
        monitor=folder.path / f"{host.name}.qmp",
        backing_folder=Path(record.memory_folder),
        run_as=_run_as(folder, record.uri),
    )
    folder.xml(host.name).write_text(render.domain_xml(bed, bed.host(host.name), launch))
    return folder.xml(host.name)


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


def _run_as(folder: BedFolder, uri: str) -> str | None:
    """Whom a privileged daemon must run QEMU as to let it read the bed's files: us, or our account there."""
    elsewhere = folder.elsewhere(uri)
    if elsewhere is not None:
        return elsewhere.run_as()
    is_privileged = uri != EMBEDDED and (uri.endswith("/system") or os.getuid() == 0)
    return f"+{os.getuid()}:+{os.getgid()}" if is_privileged else None


def _provision(folder: BedFolder, record: BedRecord, bed: Topology, options: Options, progress: Say) -> BedRecord:
    """Wait for every host, set its regions up and compare it with the bed file; side by side."""
    stores: dict[str, dict[str, str]] = {}

    def one(host: HostRecord) -> None:
        with _session(folder, record.uri, host) as session:
            session.connect(deadline_s=options.ready_deadline_s)
            progress(f"{host.name}: answers")
            promised = picture.picture_of(bed, bed.host(host.name))
            serials = [memdev.serial for memdev in promised.memdevs]
            shown = provision(session, serials, region_orders(promised))
            require_promise(promised, shown)
            stores[host.name] = _stores(bed, bed.host(host.name), shown)
            progress(f"{host.name}: shows what the bed file promises")

    side_by_side([partial(one, host) for host in record.hosts])
    return replace(record, hosts=tuple(replace(host, stores=stores[host.name]) for host in record.hosts))


def region_orders(picture: Picture) -> list[RegionOrder]:
    """The regions of a picture as the guest is told to make them: the kernel numbers root decoders as the bed file orders
    its windows."""
    numbers = {window.name: number for number, window in enumerate(picture.windows)}
    return [
        RegionOrder(
            region.name,
            numbers[region.window],
            region.size_bytes,
            region.granularity_bytes,
            region.mode,
            region.serials,
        )
        for region in picture.regions
    ]


def _stores(bed: Topology, host: Host, shown: Inventory) -> dict[str, str]:
    """Every region and every NUMA node without CPUs, by name, as the runtime maps it."""
    stores = {node.name: str(StoreSpec.numa(number)) for number, node in enumerate(host.numa_nodes, start=1)}
    for region in host.regions:
        found = shown.region_of([bed.device(name).serial for name in region.devices])
        assert found is not None  # provision compared them
        if region.mode == "devdax":
            stores[region.name] = str(StoreSpec.dax(found.dax_path))
        else:
            assert found.target_node is not None  # as above
            stores[region.name] = str(StoreSpec.numa(found.target_node))
    return stores


def side_by_side(jobs: Sequence[Callable[[], None]]) -> None:
    """Run `jobs` in threads and raise the first error at once. The threads are daemons: neither Ctrl-C nor a failure of one
    waits for another that still has minutes to its deadline."""
    outcomes: list[Future[None]] = [Future() for _ in jobs]

    def run(job: Callable[[], None], outcome: Future[None]) -> None:
        try:
            job()
            outcome.set_result(None)
        except BaseException as error:  # noqa: BLE001 - handed on to whoever waits for the outcome
            outcome.set_exception(error)

    for job, outcome in zip(jobs, outcomes, strict=True):
        threading.Thread(target=run, args=(job, outcome), daemon=True).start()
    done, _ = wait(outcomes, return_when=FIRST_EXCEPTION)
    for outcome in done:
        outcome.result()


def _session(folder: BedFolder, uri: str, host: HostRecord) -> Session:
    console = folder.console(host.name) if folder.elsewhere(uri) is None else None
    return Session(host.ssh_port, folder.key, folder.known_hosts, console)


def _end(folder: BedFolder, record: BedRecord) -> None:
    """End every domain, wait until its QEMU is gone, remove the files; the record goes last."""
    hypervisor, elsewhere = folder.hypervisor(record.uri), folder.elsewhere(record.uri)
    try:
        hypervisor.destroy([host.domain for host in record.hosts])
    except HypervisorError as error:
        if elsewhere is not None:
            raise HypervisorError(
                f"{error}; hosts of bed '{record.name}' may still run on {elsewhere.target}: try again when it answers,"
                f" or remove {folder.path} to forget them"
            ) from error
    if elsewhere is not None:
        elsewhere.close_tunnel()
        elsewhere.remove([record.memory_folder, str(folder.path)])
    for host in record.hosts:
        _end_emulator(host.uuid)
    shutil.rmtree(record.memory_folder, ignore_errors=True)
    folder.remove()


def _end_emulator(domain_uuid: str) -> None:
    """End the QEMU of that domain if it outlived libvirt's word, as one does whose start was cut off."""
    give_up = time.monotonic() + END_DEADLINE_S
    while pid := _emulator_pid(domain_uuid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if time.monotonic() < give_up else signal.SIGKILL)
        time.sleep(0.1)


def _emulator_pid(domain_uuid: str) -> int | None:
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended, or is not ours to read
        if domain_uuid.encode() in arguments and b"-uuid" in arguments:
            return int(process.name)
    return None


def _with_free_ports(record: BedRecord) -> BedRecord:
    """The record with loopback ports that nobody listens on and that no other bed has been given."""
    taken = {host.ssh_port for folder in state.all_folders() if (other := folder.read()) for host in other.hosts}
    hosts = []
    for host in record.hosts:
        port = _free_port(taken)
        taken.add(port)
        hosts.append(replace(host, ssh_port=port))
    return replace(record, hosts=tuple(hosts))


def _free_port(taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port


def _emulator() -> str:
    path = shutil.which(EMULATOR)
    if path is None:
        raise MachineError(
            f"{EMULATOR}: not found in PATH; run scripts/setup, or install QEMU >= 9.0 (Debian: qemu-system-x86)"
        )
    return path

"""Turns one host of a bed into libvirt domain XML, or the equal plain QEMU command line.

Knows QEMU's and libvirt's words; starts nothing, opens no file but its template. CXL is unknown to libvirt and goes
through qemu:commandline, in the words of the plain command line; NUMA and HMAT use libvirt's own elements.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qemu_configs.slots import DISK_SLOT, EXCHANGE_SLOT, FIRST_BRIDGE_SLOT, NET_SLOT, RNG_SLOT
from qemu_configs.topology import (
    KIB,
    LOCAL_DISTANCE,
    MIB,
    Bridge,
    Device,
    Host,
    NumaCell,
    Switch,
    Topology,
)
from qemu_configs.type3 import backends, downstream_port, root_port, type3

EXCHANGE_BYTES = 128 * MIB  # the testbed and its agents lay it out (guest/agent/lane.py)
_GUEST_SSH_PORT = 22
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class HostLaunch:
    """Where one host of a bed runs: what the bed file leaves open. Paths are those of the machine that runs QEMU."""

    domain_name: str
    uuid: str
    emulator: Path
    accelerator: Literal["tcg", "kvm"]
    kernel: Path
    initrd: Path
    kernel_cmdline: str
    disk: Path  # raw image, read-only
    ssh_port: int  # on 127.0.0.1, forwarded to the guest's port 22
    console: Path  # the guest's serial console is written here
    monitor: Path  # QMP socket; plain command line only, libvirt has its own
    backing_folder: Path  # one file per device; hosts that share a device share its file
    run_as: str | None = None  # "+UID:+GID" that a system-wide libvirt gives QEMU, so that it may read all of these


def domain_xml(topology: Topology, host: Host, launch: HostLaunch) -> str:
    """The libvirt domain of `host`, ready for virDomainCreateXML."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("domain.xml.j2").render(
        host=host,
        launch=launch,
        numa_cells=host.numa_cells(),
        distance=_distance,
        passed_to_qemu=_passed_to_qemu(topology, host, launch),
        kib=KIB,
        disk_slot=DISK_SLOT,
        rng_slot=RNG_SLOT,
    )


def qemu_argv(topology: Topology, host: Host, launch: HostLaunch) -> list[str]:
    """The plain QEMU command line of `host`, equal to its domain XML but for the monitor."""
    hmat = ",hmat=on" if host.numa_nodes else ""
    threads = ",thread=multi" if launch.accelerator == "tcg" else ""
    return [
        str(launch.emulator),
        *("-name", f"guest={_value(launch.domain_name)}", "-uuid", launch.uuid),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", f"q35,usb=off{hmat}", "-accel", f"{launch.accelerator}{threads}"),
        *("-cpu", "max,-hypervisor", "-smp", str(host.vcpus), "-m", f"size={host.total_memory_bytes // MIB}M"),
        *_memory_args(host),
        *("-kernel", str(launch.kernel), "-initrd", str(launch.initrd), "-append", launch.kernel_cmdline),
        *("-drive", f"if=none,id=disk,format=raw,readonly=on,file={_value(launch.disk)}"),
        *("-device", f"virtio-blk-pci,drive=disk,bus=pcie.0,addr={DISK_SLOT:#x}"),
        *("-object", "rng-random,id=entropy,filename=/dev/urandom"),
        *("-device", f"virtio-rng-pci,rng=entropy,bus=pcie.0,addr={RNG_SLOT:#x}"),
        *("-chardev", f"file,id=console,append=on,path={_value(launch.console)}", "-serial", "chardev:console"),
        *("-qmp", f"unix:{_value(launch.monitor)},server=on,wait=off"),
        *_passed_to_qemu(topology, host, launch),
    ]


def _passed_to_qemu(topology: Topology, host: Host, launch: HostLaunch) -> list[str]:
    """What libvirt has no elements for."""
    cxl = _cxl_args(topology, host, launch)
    return [*cxl, *_exchange_args(host, launch), *_network_args(launch), *host.qemu]


def exchange_file(host: str, backing_folder: Path) -> Path:
    """The file behind the memory that a host and whoever started it share; sparse, EXCHANGE_BYTES long."""
    return backing_folder / f"{host}.exchange"


def _exchange_args(host: Host, launch: HostLaunch) -> list[str]:
    """Plain memory on the guest's PCI bus: no CXL, so nothing that is under test goes through it."""
    path = _value(exchange_file(host.name, launch.backing_folder))
    return [
        *("-object", f"memory-backend-file,id=exchange,share=on,size={EXCHANGE_BYTES // MIB}M,mem-path={path}"),
        *("-device", f"ivshmem-plain,memdev=exchange,master=on,bus=pcie.0,addr={EXCHANGE_SLOT:#x}"),
    ]


def _cxl_args(topology: Topology, host: Host, launch: HostLaunch) -> list[str]:
    if not host.bridges:
        return []
    args = ["-machine", _machine_cxl(host)]
    for device in topology.devices_of(host):
        if device.plugged:
            for backend in backends(device, launch.backing_folder):
                args += ["-object", _words(backend)]
    chassis_slot = iter(range(1, 1 << 13))  # unique per host; the PCIe slot number has 13 bits
    for index, bridge in enumerate(host.bridges):
        slot = FIRST_BRIDGE_SLOT + index
        # hdm_for_passthrough: else Linux gives a bridge of one port one decoder, and a second region below it fails.
        place = f"bus=pcie.0,addr={slot:#x}"
        args += ["-device", f"pxb-cxl,bus_nr={bridge.bus},{place},id=bridge.{bridge.name},hdm_for_passthrough=on"]
        args += _bridge_args(topology, bridge, chassis_slot)
    return args


def _machine_cxl(host: Host) -> str:
    words = ["cxl=on"]
    for index, window in enumerate(host.windows):
        words += [f"cxl-fmw.{index}.targets.{n}=bridge.{target}" for n, target in enumerate(window.targets)]
        words += [f"cxl-fmw.{index}.size={window.size_bytes // MIB}M"]
        words += [f"cxl-fmw.{index}.interleave-granularity={window.granularity_bytes}"]
    return ",".join(words)


def _bridge_args(topology: Topology, bridge: Bridge, chassis_slot: Iterator[int]) -> Iterator[str]:
    ports = [root_port(bridge, number) for number in range(bridge.num_ports)]
    occupants = (*bridge.devices, *bridge.switches, *[None] * bridge.free_ports)
    for number, (port, occupant) in enumerate(zip(ports, occupants, strict=True)):
        yield from _port(f"cxl-rp,port={number},bus=bridge.{bridge.name},id={port}", chassis_slot)
        if isinstance(occupant, Switch):
            yield from _switch_args(topology, occupant, port, chassis_slot)
        elif occupant is not None:
            yield from _type3(topology.device(occupant), port)


def _switch_args(topology: Topology, switch: Switch, upstream_bus: str, chassis_slot: Iterator[int]) -> Iterator[str]:
    yield "-device"
    # Back-invalidation needs 256-byte flits on every link to the device; root and downstream ports of such QEMUs have them anyway.
    flits = ",x-256b-flit=on" if any(topology.device(name).back_invalidate for name in switch.devices) else ""
    yield f"cxl-upstream,bus={upstream_bus},id=switch.{switch.name}{flits}"
    for number, device in enumerate((*switch.devices, *[None] * switch.free_ports)):
        port = downstream_port(switch, number)
        yield from _port(f"cxl-downstream,port={number},bus=switch.{switch.name},id={port}", chassis_slot)
        if device is not None:
            yield from _type3(topology.device(device), port)


def _port(words: str, chassis_slot: Iterator[int]) -> tuple[str, str]:
    return "-device", f"{words},chassis=0,slot={next(chassis_slot)}"


def _type3(device: Device, bus: str) -> Iterator[str]:
    if device.plugged:
        yield "-device"
        yield _words(type3(device, bus))


def _network_args(launch: HostLaunch) -> list[str]:
    # restrict=on: the guest reaches nothing outside; the forwarded port works all the same. romfile=: no network boot.
    forward = f"tcp:127.0.0.1:{launch.ssh_port}-:{_GUEST_SSH_PORT}"
    return [
        *("-netdev", f"user,id=net,restrict=on,hostfwd={forward}"),
        *("-device", f"virtio-net-pci,netdev=net,romfile=,bus=pcie.0,addr={NET_SLOT:#x}"),
    ]


def _memory_args(host: Host) -> list[str]:
    cells = host.numa_cells()
    args = []
    for cell in cells:
        args += _cell_args(cell, initiator=",initiator=0" if host.numa_nodes else "")
    if host.numa_nodes:
        distances = [f"dist,src={a.node},dst={b.node},val={_distance(a, b)}" for a in cells for b in cells]
        for words in [*distances, *(lb for cell in cells for lb in _hmat_words(cell))]:
            args += ["-numa", words]
    return args


def _cell_args(cell: NumaCell, initiator: str) -> list[str]:
    binding = "" if cell.host_node is None else f",host-nodes={cell.host_node},policy=bind"
    cpus = f",cpus={cell.cpus}" if cell.cpus else ""
    return [
        *("-object", f"memory-backend-ram,id=dram.{cell.node},size={cell.memory_bytes // MIB}M{binding}"),
        *("-numa", f"node,nodeid={cell.node}{cpus}{initiator},memdev=dram.{cell.node}"),
    ]


def _distance(a: NumaCell, b: NumaCell) -> int:
    """Nodes without CPUs never start an access: from one to another the farther one's distance is as good as any."""
    return LOCAL_DISTANCE if a.node == b.node else max(a.distance, b.distance)


def _hmat_words(cell: NumaCell) -> Iterator[str]:
    assert cell.access is not None, "rules.py lets no host with NUMA nodes pass without figures for each"
    where = f"hmat-lb,initiator=0,target={cell.node},hierarchy=memory"
    yield f"{where},data-type=read-latency,latency={cell.access.read_latency_ns}"
    yield f"{where},data-type=write-latency,latency={cell.access.write_latency_ns}"
    yield f"{where},data-type=read-bandwidth,bandwidth={cell.access.read_bandwidth_mib_per_s}M"
    yield f"{where},data-type=write-bandwidth,bandwidth={cell.access.write_bandwidth_mib_per_s}M"


def _words(arguments: Mapping[str, object]) -> str:
    """QMP's arguments as an option of the command line: the first without its key, switches as on and off."""
    first, *rest = arguments.items()
    return ",".join([str(first[1]), *(f"{key}={_word(key, value)}" for key, value in rest)])


def _word(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int) and key == "size":
        return str(value) if value % MIB else f"{value // MIB}M"
    return f"{value:#x}" if key == "sn" else _value(value)


def _value(value: object) -> str:
    """A value inside a QEMU option: a comma is written twice."""
    return str(value).replace(",", ",,")

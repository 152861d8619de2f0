"""`cxlbed render`: what a host of a bed is to libvirt, to QEMU, or to its guest. Starts nothing."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import NAMESPACE_URL, uuid5

import typer

from emulation.cli.options import HostOption
from emulation.cli.output import write_json
from emulation.errors import InputError
from emulation.machines.this_machine import any_machine
from qemu_configs.bedfile import load
from qemu_configs.picture import picture_of
from qemu_configs.render import HostLaunch, domain_xml, qemu_argv
from qemu_configs.topology import Host, Topology

BedFile = Annotated[str, typer.Argument(metavar="FILE", help="A bed file, or the name of a stock topology.")]
FolderOption = Annotated[
    Path, typer.Option("--folder", help="Folder that holds vmlinuz, initrd.img and disk.img and takes the bed's files.")
]


class RenderFormat(StrEnum):
    """What `cxlbed render` prints."""

    XML = "xml"  # libvirt domain
    ARGV = "argv"  # plain QEMU command line
    PICTURE = "picture"  # what `cxl list` and sysfs must show in the guest, as JSON


FormatOption = Annotated[
    RenderFormat, typer.Option("--format", help="libvirt XML, QEMU command line or guest picture.")
]


def render(
    file: BedFile,
    host: HostOption = None,
    format: FormatOption = RenderFormat.XML,
    folder: FolderOption = Path("bed"),
    kvm: Annotated[bool, typer.Option("--kvm", help="Render for KVM instead of TCG.")] = False,
) -> None:
    """Print what a host of a bed is to libvirt, to QEMU, or to its guest."""
    topology = load(file, any_machine())
    chosen = _host(topology, host)
    launch = _launch(topology, chosen, folder.absolute(), kvm)
    match format:
        case RenderFormat.XML:
            typer.echo(domain_xml(topology, chosen, launch))
        case RenderFormat.ARGV:
            typer.echo(_shell_lines(qemu_argv(topology, chosen, launch)))
        case RenderFormat.PICTURE:
            write_json(Path("-"), picture_of(topology, chosen).to_json())


def _host(topology: Topology, name: str | None) -> Host:
    if name is None:
        return topology.hosts[0]
    for host in topology.hosts:
        if host.name == name:
            return host
    known = ", ".join(host.name for host in topology.hosts)
    raise InputError(f"render: --host={name} is no host of '{topology.name}' (hosts: {known})")


def _launch(topology: Topology, host: Host, folder: Path, kvm: bool) -> HostLaunch:
    """A place for a bed that somebody starts by hand: all files in one folder, ports from 2222 on."""
    name = f"{topology.name}-{host.name}"
    return HostLaunch(
        domain_name=name,
        uuid=str(uuid5(NAMESPACE_URL, f"cxlbed:{name}")),
        emulator=Path("/usr/bin/qemu-system-x86_64"),
        accelerator="kvm" if kvm else "tcg",
        kernel=folder / "vmlinuz",
        initrd=folder / "initrd.img",
        kernel_cmdline="console=ttyS0 root=/dev/vda ro",
        disk=folder / "disk.img",
        ssh_port=2222 + topology.hosts.index(host),
        console=folder / f"{host.name}.console",
        monitor=folder / f"{host.name}.qmp",
        backing_folder=folder,
    )


def _shell_lines(argv: list[str]) -> str:
    """A command line for the shell, one line per option with its value."""
    lines = [shlex.quote(argv[0])]
    for word in argv[1:]:
        if word.startswith("-"):
            lines.append(word)
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n  ".join(lines)

"""Verbs that read a bed file and start nothing: check, render, schema."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emulation.cli.output import JsonOption, write_json
from emulation.errors import InputError

if TYPE_CHECKING:
    from qemu_configs.render import HostLaunch
    from qemu_configs.topology import Host, Topology


BedFiles = Annotated[list[str], typer.Argument(metavar="FILE...", help="Bed files, or names of stock topologies.")]
BedFile = Annotated[str, typer.Argument(metavar="FILE", help="A bed file, or the name of a stock topology.")]
HostOption = Annotated[str | None, typer.Option("--host", help="Which host; without it, the first.")]
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


def check(files: BedFiles, json: JsonOption = None) -> None:
    """Check bed files, against this machine's memory and NUMA nodes too. Shows every problem; ends with 2 on any."""
    from emulation.machines.this_machine import this_machine
    from qemu_configs.bedfile import load
    from qemu_configs.errors import BedFileError
    from qemu_configs.picture import notes

    machine = this_machine()
    verdicts: list[dict[str, Any]] = []
    for file in files:
        try:
            topology = load(file, machine)
            remarks = [f"host '{host.name}': {note}" for host in topology.hosts for note in notes(topology, host)]
            verdicts.append({"file": file, "problems": [], "notes": remarks})
        except BedFileError as error:
            verdicts.append({"file": file, "problems": error.problems, "notes": []})
    write_json(json, {"files": verdicts})
    for verdict in verdicts:
        _show_verdict(verdict, quiet=str(json) == "-")
    if any(verdict["problems"] for verdict in verdicts):
        raise typer.Exit(2)


def render(
    file: BedFile,
    host: HostOption = None,
    format: FormatOption = RenderFormat.XML,
    folder: FolderOption = Path("bed"),
    kvm: Annotated[bool, typer.Option("--kvm", help="Render for KVM instead of TCG.")] = False,
) -> None:
    """Print what a host of a bed is to libvirt, to QEMU, or to its guest."""
    from qemu_configs.bedfile import load
    from qemu_configs.picture import picture_of
    from qemu_configs.render import domain_xml, qemu_argv

    topology = load(file)
    chosen = _host(topology, host)
    launch = _launch(topology, chosen, folder.absolute(), kvm)
    match format:
        case RenderFormat.XML:
            typer.echo(domain_xml(topology, chosen, launch))
        case RenderFormat.ARGV:
            typer.echo(_shell_lines(qemu_argv(topology, chosen, launch)))
        case RenderFormat.PICTURE:
            write_json(Path("-"), picture_of(topology, chosen).to_json())


def schema(
    of: Annotated[str, typer.Argument(metavar="[OF]", help="bed, profile, run, latency, serve or numa.")] = "bed",
) -> None:
    """Print a JSON Schema: of bed files or profiles, for editors, or of what a verb writes with --json."""
    from emulation.schemas import SCHEMAS

    if of not in SCHEMAS:
        raise InputError(f"schema '{of}': is unknown; take one of {', '.join(SCHEMAS)}")
    write_json(Path("-"), SCHEMAS[of]())


def _show_verdict(verdict: dict[str, Any], quiet: bool) -> None:
    for problem in verdict["problems"]:
        typer.echo(f"{verdict['file']}: {problem}", err=True)
    if not verdict["problems"] and not quiet:
        for line in ["usable", *(f"note: {note}" for note in verdict["notes"])]:
            typer.echo(f"{verdict['file']}: {line}")


def _host(topology: "Topology", name: str | None) -> "Host":
    if name is None:
        return topology.hosts[0]
    for host in topology.hosts:
        if host.name == name:
            return host
    known = ", ".join(host.name for host in topology.hosts)
    raise InputError(f"render: --host={name} is no host of '{topology.name}' (hosts: {known})")


def _launch(topology: "Topology", host: "Host", folder: Path, kvm: bool) -> "HostLaunch":
    """A place for a bed that somebody starts by hand: all files in one folder, ports from 2222 on."""
    from uuid import NAMESPACE_URL, uuid5

    from qemu_configs.render import HostLaunch

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
    """A command line for the shell, an option with its value a line."""
    lines = [shlex.quote(argv[0])]
    for word in argv[1:]:
        if word.startswith("-"):
            lines.append(word)
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n  ".join(lines)

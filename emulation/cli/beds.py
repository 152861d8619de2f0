"""Verbs of a bed's life: up, status, exec, ssh, console, plug, unplug, down."""

import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from emulation.cli.options import AcceleratorOption, EmulatorOption, HostOption, MemoryOption, UriOption
from emulation.cli.output import JsonOption, write_json
from emulation.cli.progress import progress
from emulation.cli.terminal import show
from emulation.errors import InputError, MachineError
from emulation.machines import bed, hotplug
from emulation.machines.launch import Options
from emulation.machines.this_machine import this_machine
from emulation.report.beds import beds_table
from qemu_configs import bedfile

BedName = Annotated[str, typer.Argument(help="Name of a bed that is up.")]
FileOrName = Annotated[str, typer.Argument(metavar="FILE-or-NAME", help="A bed file, or the name of a stock topology.")]
NameOption = Annotated[str | None, typer.Option("--name", help="The bed's name; without it, the topology's.")]


def up(
    file: FileOrName,
    name: NameOption = None,
    uri: UriOption = "embedded",
    accelerator: AcceleratorOption = "auto",
    memory_folder: MemoryOption = Path("/dev/shm"),
    emulator: EmulatorOption = None,
    ready_deadline: Annotated[float, typer.Option(help="Seconds a host has until SSH answers.")] = 120.0,
    json: JsonOption = None,
) -> None:
    """Boot the hosts of a bed and make their CXL regions ready. Does nothing where it is up already."""
    topology = bedfile.load(file, this_machine())
    options = Options(uri, accelerator, memory_folder, emulator, ready_deadline)
    with progress() as say:
        running = bed.up(topology, name or topology.name, options, say)
    for host in running.record.hosts:
        typer.echo(f"{running.record.name}/{host.name}: ready, SSH on 127.0.0.1:{host.ssh_port}", err=str(json) == "-")
    for note in running.notes():
        typer.echo(f"{running.record.name}: {note}", err=True)
    if json is not None:
        write_json(json, asdict(running.hosts.status()))


def status(json: JsonOption = None) -> None:
    """Show every bed of this user: accelerator, emulator, hosts, how to reach them."""
    beds = bed.status()
    write_json(json, {"beds": [asdict(one) for one in beds]})
    show(json, beds_table(beds) if beds else "no bed is up")


def execute(
    name: BedName,
    command: Annotated[list[str], typer.Argument(help="Command and arguments; put -- before them.")],
    host: HostOption = None,
) -> None:
    """Run a command in a host; ends with the command's status."""
    _become([*_ssh_command(name, host), "--", shlex.join(command)])


def ssh(name: BedName, host: HostOption = None) -> None:
    """Open a shell in a host."""
    _become(_ssh_command(name, host))


def console(name: BedName, host: HostOption = None, follow: Annotated[bool, typer.Option("--follow")] = False) -> None:
    """Show what a host printed on its serial console."""
    running = bed.find(name, must_be_ready=False)
    path = running.folder.console(running.host(host or running.record.hosts[0].name).name)
    if not path.exists():
        raise InputError(f"bed '{name}': its console has printed nothing yet; try again in a second")
    if follow:
        _become(["tail", "-n", "+1", "-f", str(path)])
    sys.stdout.write(path.read_text(errors="replace"))


DeviceName = Annotated[str, typer.Argument(metavar="DEVICE", help="A device of the bed's file.")]


def plug(name: BedName, device: DeviceName) -> None:
    """Put a device of a bed's file that is not plugged (`plugged: false`) into its port, and make the regions over it."""
    with progress() as say:
        hotplug.plug(name, device, say)
    typer.echo(f"{name}: '{device}' is plugged")


def unplug(name: BedName, device: DeviceName) -> None:
    """Take a device out of a bed that is up: its guests end the regions over it first."""
    with progress() as say:
        hotplug.unplug(name, device, say)
    typer.echo(f"{name}: '{device}' is unplugged")


def down(
    name: Annotated[str | None, typer.Argument(metavar="NAME")] = None,
    all_beds: Annotated[bool, typer.Option("--all", help="Every bed of this user.")] = False,
) -> None:
    """End a bed, or all of them, and remove all that they left."""
    if (name is None) != all_beds:
        raise InputError("down: give a bed's name, or --all")
    with progress() as say:
        ended = bed.down_all(say) if name is None else [name] if bed.down(name, say) else []
    if name is not None and not ended:
        raise InputError(f"bed '{name}': is not up; see: cxlbed status")
    typer.echo(f"ended {', '.join(ended)}" if ended else "no bed was up")


def _ssh_command(name: str, host: str | None) -> list[str]:
    running = bed.find(name)
    chosen = running.host(host or running.record.hosts[0].name)
    # Nothing of the user's own configuration, keys or agent has a say in how a bed's hosts are reached.
    options = [
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={running.folder.known_hosts}",
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        "LogLevel=ERROR",
    ]
    words = ["ssh", "-F", "none", "-i", str(running.folder.key), "-p", str(chosen.ssh_port)]
    return [*words, *(word for option in options for word in ("-o", option)), "root@127.0.0.1"]


def _become(command: list[str]) -> NoReturn:
    """Go on as `command`. Raises MachineError where it is not installed."""
    try:
        os.execvp(command[0], command)
    except FileNotFoundError as error:
        raise MachineError(f"{command[0]}: not found in PATH; install it (ssh: openssh-client)") from error

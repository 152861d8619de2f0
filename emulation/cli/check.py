"""`cxlbed check`: what is wrong with bed files. Starts nothing."""

from typing import Annotated, Any

import typer

from emulation.cli.output import JsonOption, write_json
from emulation.machines.this_machine import this_machine
from qemu_configs.bedfile import load
from qemu_configs.errors import BedFileError
from qemu_configs.picture import notes

BedFiles = Annotated[list[str], typer.Argument(metavar="FILE...", help="Bed files, or names of stock topologies.")]


def check(files: BedFiles, json: JsonOption = None) -> None:
    """Check bed files, against this machine's memory and NUMA nodes too. Shows every problem; ends with 2 on any."""
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


def _show_verdict(verdict: dict[str, Any], quiet: bool) -> None:
    for problem in verdict["problems"]:
        typer.echo(f"{verdict['file']}: {problem}", err=True)
    if not verdict["problems"] and not quiet:
        for line in ["usable", *(f"note: {note}" for note in verdict["notes"])]:
            typer.echo(f"{verdict['file']}: {line}")

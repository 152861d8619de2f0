"""The verb soak: hosts in one pool for long, under random faults."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from emulation.cli.output import JsonOption, write_json
from emulation.cli.progress import progress
from emulation.errors import CxlbedError
from emulation.faults.soak import soak as run


def soak(
    hosts: Annotated[int, typer.Option("--hosts", help="Processes that share the pool.")] = 3,
    seconds: Annotated[float, typer.Option("--seconds", help="How long in all, what --state holds included.")] = 60.0,
    seed: Annotated[int, typer.Option("--seed", help="Of faults and of what hosts do.")] = 0,
    state: Annotated[
        Path | None, typer.Option("--state", help="File that keeps the sums; a soak that is in it is gone on with.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Hosts in one pool for long, under random faults; every byte is held to the truth. Hosts are processes of this machine."""
    with progress() as say:
        report = run(hosts, seconds, seed, state, say=say)
    write_json(json, asdict(report))
    if str(json) != "-":
        for name, value in asdict(report).items():
            typer.echo(f"{name:<15} {value}")
    if not report.passed:
        raise CxlbedError(
            f"soak: wrong_bytes={report.wrong_bytes}, hung={report.hung}, exits={report.exits}; each must be 0"
        )

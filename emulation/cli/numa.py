"""The verb numa: the remote-NUMA host, or the nodes of a guest."""

import os
from dataclasses import asdict
from typing import Annotated, Any

import typer

from emulation.cli.output import JsonOption, write_json
from emulation.cli.progress import progress
from emulation.cli.terminal import show
from emulation.errors import InputError
from emulation.machines.bed import find
from emulation.numa.measure import Effort
from emulation.numa.records import SurveyDocument
from emulation.numa.survey import placement_in_guest, survey
from emulation.report.numa import nodes_table, placement_report, survey_report
from emulation.timing.profile import load_profile
from guest.agent.numa_nodes import choose_pair, find_nodes
from qemu_configs.topology import MIB, parse_size

LocalOption = Annotated[
    int | None, typer.Option("--local", help="Node whose CPUs read; without it, the first with CPUs.")
]
RemoteOption = Annotated[
    int | None, typer.Option("--remote", help="Node whose memory is read; without it, the farthest.")
]
SizeOption = Annotated[
    str | None,
    typer.Option("--size", help="Memory to bind on each node, well above the last-level cache: 1G; with --bed 64M."),
]
ProfileOption = Annotated[
    str, typer.Option("--profile", help="Profile to compare with and to top up to: name or file.")
]
BedOption = Annotated[str | None, typer.Option("--bed", help="Look inside this running bed's first host: no times.")]


def numa(
    local: LocalOption = None,
    remote: RemoteOption = None,
    size: SizeOption = None,
    profile: ProfileOption = "cxl-switched-400",
    bed: BedOption = None,
    json: JsonOption = None,
) -> None:
    """Bind a pool to a remote NUMA node, prove it, measure it, compare with a profile. Ends with 3 on one node."""
    size_bytes = _size_bytes(size or ("1G" if bed is None else "64M"))  # in a guest nothing is timed
    if bed is not None:
        report = _inside(bed, size_bytes)
        write_json(json, report)
        show(json, *placement_report(report))
        return
    aim, nodes = load_profile(profile), find_nodes()
    show(json, nodes_table(nodes))
    pair = choose_pair(nodes, local, remote)
    if busy := _busy_words():
        typer.echo(busy, err=True)
    with progress() as say:
        done = survey(pair, size_bytes, aim, Effort(), say)
    write_json(json, asdict(SurveyDocument.of(done, nodes, aim.name, busy)))
    show(json, *survey_report(done, aim.name))


def _size_bytes(size: str) -> int:
    try:
        size_bytes = parse_size(size)
    except ValueError as exc:
        raise InputError(f"numa: size={size!r} {exc}") from exc
    if not isinstance(size_bytes, int) or size_bytes < 64 * MIB or size_bytes % (2 * MIB):
        raise InputError(f"numa: size={size} is not a multiple of 2 MiB from 64M on (1G is usual)")
    return size_bytes


def _busy_words() -> str:
    """A warning where other programs share the memory that is to be measured; "" on an idle machine."""
    load, num_cpus = os.getloadavg()[0], os.cpu_count() or 1
    return f"numa: load {load:.1f} on {num_cpus} CPUs: these are not an idle machine's figures" if load > 1 else ""


def _inside(bed: str, size_bytes: int) -> dict[str, Any]:
    running = find(bed)
    with running.session(running.record.hosts[0].name) as session:
        return placement_in_guest(session, size_bytes)

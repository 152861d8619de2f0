"""The verb numa: the remote-NUMA host, or the nodes of a guest."""

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emulation.cli.output import JsonOption, write_json
from emulation.errors import InputError

if TYPE_CHECKING:
    from emulation.numa.survey import Survey
    from guest.agent.numa_nodes import Node

LocalOption = Annotated[
    int | None, typer.Option("--local", help="Node whose CPUs read; without it, the first with CPUs.")
]
RemoteOption = Annotated[
    int | None, typer.Option("--remote", help="Node whose memory is read; without it, the farthest.")
]
SizeOption = Annotated[
    str, typer.Option("--size", help="Memory to bind on each node; well above the last-level cache.")
]
ProfileOption = Annotated[
    str, typer.Option("--profile", help="Profile to compare with and to top up to: name or file.")
]
BedOption = Annotated[str | None, typer.Option("--bed", help="Look inside this running bed's first host: no times.")]


def numa(
    local: LocalOption = None,
    remote: RemoteOption = None,
    size: SizeOption = "1G",
    profile: ProfileOption = "cxl-switched-400",
    bed: BedOption = None,
    json: JsonOption = None,
) -> None:
    """Bind a pool to a remote NUMA node, prove it, measure it, compare with a profile. Ends with 3 on one node."""
    size_bytes = _size_bytes(size)
    if bed is not None:
        _show_placement(_inside(bed, size_bytes), json)
        return
    from emulation.cli.progress import progress
    from emulation.numa.measure import Effort
    from emulation.numa.records import SurveyDocument
    from emulation.numa.survey import survey
    from emulation.timing.profile import load_profile
    from guest.agent.numa_nodes import choose_pair, find_nodes

    wanted, nodes = load_profile(profile), find_nodes()
    _show_nodes(nodes, quiet=str(json) == "-")
    pair = choose_pair(nodes, local, remote)
    if busy := _busy_words():
        typer.echo(busy, err=True)
    with progress() as show:
        found = survey(pair, size_bytes, wanted, Effort(), show)
    write_json(json, asdict(SurveyDocument.of(found, nodes, wanted.name, busy)))
    if str(json) != "-":
        _show_survey(found, wanted.name)


def _size_bytes(size: str) -> int:
    from qemu_configs.topology import MIB, parse_size

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


def _inside(bed_name: str, size_bytes: int) -> dict[str, Any]:
    from emulation.machines import bed
    from emulation.numa.survey import placement_in_guest

    running = bed.find(bed_name)
    with running.session(running.record.hosts[0].name) as session:
        return placement_in_guest(session, size_bytes)


def _show_nodes(nodes: "list[Node]", quiet: bool) -> None:
    from emulation.report.tables import make_table, print_table

    if quiet:
        return
    columns = ("node", "CPUs", "memory, GiB", "distances", "HMAT read, ns", "HMAT read, MiB/s")
    rows = [
        (
            node.number,
            len(node.cpus),
            node.memory_bytes / (1 << 30),
            " ".join(map(str, node.distances.values())),
            None if node.access is None else node.access.read_latency_ns,
            None if node.access is None else node.access.read_bandwidth_mib_per_s,
        )
        for node in nodes
    ]
    print_table(make_table("NUMA nodes", columns, rows))


def _show_survey(found: "Survey", profile: str) -> None:
    from emulation.report.tables import make_table, print_table
    from sac_runtime.label import require_one_label

    pair, top_up = found.pair, found.top_up
    typer.echo(f"proved: {found.proof.pages_moved} pages by move_pages, {found.proof.pages_mapped} by numa_maps,")
    typer.echo(f"        policy {found.proof.policy}, reader on CPUs {list(found.proof.reader_cpus)}")
    shares = (found.local.huge_page_share, found.remote.huge_page_share)
    typer.echo(
        f"on huge pages: {shares[0]:.0%} local, {shares[1]:.0%} remote (on small ones a latency holds page-table walks)"
    )
    label = require_one_label(*(record.label for record in found.records))
    near, far = (
        {record.figure: record for record in found.records if record.node == number and not record.others_bytes_per_ns}
        for number in (pair.local.number, pair.remote.number)
    )
    columns = ("figure", "unit", f"node {pair.local.number}", f"node {pair.remote.number}", "ratio")
    rows = [(n.figure, n.unit, n.value, far[n.figure].value, far[n.figure].value / n.value) for n in near.values()]
    print_table(make_table(f"As CPUs of node {pair.local.number} see them ({label})", columns, rows))
    measured = f"node {pair.remote.number}, {label}"
    besides = ("figure", "unit", "others read, GB/s", measured, f"profile {profile}", "the profile's source")
    beside = [(b.figure, b.unit, b.others_bytes_per_ns, b.measured, b.profile, b.source) for b in found.beside]
    print_table(make_table("Beside the profile", besides, beside))
    if top_up.achieved_ns is None:
        typer.echo(f"not topped up to {top_up.wanted_ns:.0f} ns: {top_up.reason}")
    else:
        typer.echo(
            f"topped up ({top_up.label}): {top_up.achieved_ns:.1f} ns per read, asked {top_up.wanted_ns:.0f} ns; "
            f"{top_up.num_late} reads were slower already"
        )


def _show_placement(report: dict[str, Any], json: "JsonOption") -> None:
    write_json(json, report)
    if str(json) == "-":
        return
    placement = report["placement"]
    for node in report["nodes"]:
        typer.echo(
            f"node {node['number']}: {len(node['cpus'])} CPUs, {node['memory_bytes'] >> 20} MiB, HMAT {node['access']}"
        )
    typer.echo(
        f"proved in the guest ({report['label']}, no time claimed): pool on node {report['remote']}, reader on node "
        f"{report['local']}; move_pages sees {placement['pages_moved']}, numa_maps {placement['pages_mapped']}"
    )

"""Tables and lines of `cxlbed numa`. Knows surveys and placements; measures nothing."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from emulation.numa.compare import Beside, Record, TopUp
from emulation.numa.survey import Survey
from emulation.report.tables import make_table
from guest.agent.numa_nodes import Node
from sac_runtime.label import Label, require_one_label


def nodes_table(nodes: Sequence[Node]) -> Table:
    """One line per node."""
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
    return make_table("NUMA nodes", columns, rows)


def survey_report(survey: Survey, profile: str) -> list[Table | str]:
    """Lines and tables in order: the proof, both nodes beside one another, the far one beside the profile, the top-up.

    profile: its name. Raises LabelMixError where the survey's figures have different labels."""
    label = require_one_label(*(record.label for record in survey.records))
    shares = (survey.local.huge_page_share, survey.remote.huge_page_share)
    return [
        f"proved: {survey.proof.pages_moved} pages by move_pages, {survey.proof.pages_mapped} by numa_maps,",
        f"        policy {survey.proof.policy}, reader on CPUs {list(survey.proof.reader_cpus)}",
        f"on huge pages: {shares[0]:.0%} local, {shares[1]:.0%} remote (on small ones a latency holds page-table walks)",
        _both_nodes(survey, label),
        _beside_table(survey.beside, f"node {survey.pair.remote.number}, {label}", profile),
        _top_up_line(survey.top_up),
    ]


def placement_report(report: dict[str, Any]) -> list[str]:
    """Lines: the nodes of the guest, and where the pool and its reader were proved to be. report: as the agent gives it."""
    placement = report["placement"]
    nodes = [
        f"node {node['number']}: {len(node['cpus'])} CPUs, {node['memory_bytes'] >> 20} MiB, HMAT {node['access']}"
        for node in report["nodes"]
    ]
    proof = (
        f"proved in the guest ({report['label']}, no time claimed): pool on node {report['remote']}, reader on node "
        f"{report['local']}; move_pages sees {placement['pages_moved']}, numa_maps {placement['pages_mapped']}"
    )
    return [*nodes, proof]


def _both_nodes(survey: Survey, label: Label) -> Table:
    near, far = (_unloaded(survey.records, node.number) for node in (survey.pair.local, survey.pair.remote))
    columns = ("figure", "unit", f"node {survey.pair.local.number}", f"node {survey.pair.remote.number}", "ratio")
    rows = [(n.figure, n.unit, n.value, far[n.figure].value, far[n.figure].value / n.value) for n in near.values()]
    return make_table(f"As CPUs of node {survey.pair.local.number} see them ({label})", columns, rows)


def _unloaded(records: Sequence[Record], node: int) -> dict[str, Record]:
    """A node's figures while nobody else reads, by their names."""
    return {one.figure: one for one in records if one.node == node and not one.others_bytes_per_ns}


def _beside_table(beside: Sequence[Beside], measured: str, profile: str) -> Table:
    columns = ("figure", "unit", "others read, GB/s", measured, f"profile {profile}", "the profile's source")
    rows = [(b.figure, b.unit, b.others_bytes_per_ns, b.measured, b.profile, b.source) for b in beside]
    return make_table("Beside the profile", columns, rows)


def _top_up_line(top_up: TopUp) -> str:
    if top_up.achieved_ns is None:
        return f"not topped up to {top_up.wanted_ns:.0f} ns: {top_up.reason}"
    return (
        f"topped up ({top_up.label}): {top_up.achieved_ns:.1f} ns per read, asked {top_up.wanted_ns:.0f} ns; "
        f"{top_up.num_late} reads were slower already"
    )

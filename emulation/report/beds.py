"""Tables of beds and of what this machine can do. Knows statuses and findings; asks nobody."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from emulation.doctor import Finding
from emulation.machines.hosts import BedStatus

_COLOURS = {"ok": "green", "note": "yellow", "fail": "red"}


def beds_table(beds: Sequence[BedStatus]) -> Table:
    """One line per host; beds: not empty."""
    table = Table()
    table.add_column("bed", min_width=max(len(bed.name) for bed in beds))  # whole: other verbs want it
    for column in ("topology", "accelerator", "emulator", "host", "state", "regions", "SSH on loopback", "ready after"):
        table.add_column(column, overflow="fold")
    for bed in beds:
        ready = "not yet" if bed.ready_s is None else f"{bed.ready_s} s"
        for host in bed.hosts:
            regions = ", ".join(f"{name} {kind}" for name, kind in host.regions.items())
            where = (host.name, host.state, regions, str(host.ssh_port))
            table.add_row(bed.name, bed.topology, bed.accelerator, bed.emulator, *where, ready)
    return table


def findings_table(findings: Sequence[Finding]) -> Table:
    """One line per check, with its fix."""
    table = Table("check", "verdict", "what was found", "what to do")
    for finding in findings:
        verdict = f"[{_COLOURS[finding.verdict]}]{finding.verdict}"
        table.add_row(finding.check, verdict, escape(finding.detail), escape(finding.fix))
    return table

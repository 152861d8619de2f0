"""`cxlbed doctor`: what this machine can do."""

from dataclasses import asdict

import typer

from emulation import doctor as checks
from emulation.cli.output import JsonOption, write_json
from emulation.cli.terminal import show
from emulation.report.beds import findings_table


def doctor(json: JsonOption = None) -> None:
    """Check what this machine can do, each trap with its fix. Ends with 3 if the main job cannot run."""
    findings = checks.examine()
    write_json(json, {"can_run": checks.can_run(findings), "findings": [asdict(finding) for finding in findings]})
    show(json, findings_table(findings))
    if not checks.can_run(findings):
        raise typer.Exit(3)

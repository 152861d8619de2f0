"""What people see of a verb's result. Knows the terminal, and when standard output is for machines."""

from pathlib import Path

import typer
from rich.table import Table

from emulation.report.tables import print_table


def show(json_path: Path | None, *parts: Table | str) -> None:
    """Show tables and lines, unless standard output carries the JSON."""
    if str(json_path) == "-":
        return
    for part in parts:
        if isinstance(part, str):
            typer.echo(part)
        else:
            print_table(part)

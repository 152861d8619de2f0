"""Tables for terminals. Knows rich, nothing of what stands in them."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from emulation.report.wording import significant

Cell = str | int | float | None


def make_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], caption: str | None = None) -> Table:
    """A table; numbers stand to the right in three significant digits, whole numbers whole, None as a dash."""
    rows = [list(row) for row in rows]
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for number, column in enumerate(columns):
        numeric = all(not isinstance(row[number], str) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell_text(cell) for cell in row))
    return table


def print_table(table: Table, console: Console | None = None) -> None:
    """Show a table, not cut to 80 columns where the output is no terminal."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, 160))
    console.print(table)


def cell_text(cell: Cell) -> str:
    """The words for one cell."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return significant(cell)
    return f"{cell:,}" if isinstance(cell, int) else cell

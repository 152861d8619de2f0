"""One HTML page of text, tables and pictures, whole in one file. Knows HTML, nothing of what it shows."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from emulation.files import write_whole
from emulation.report.tables import Cell, cell_text

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;font-size:14px}th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd}
td.n{text-align:right;font-variant-numeric:tabular-nums}th{text-align:left}img{max-width:100%}"""
_MEDIA = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class PageTable:
    """A table of a section."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it: paragraphs, tables, then pictures (.png or .svg files)."""

    heading: str
    text: Sequence[str] = ()
    tables: Sequence[PageTable] = field(default=())
    pictures: Sequence[Path] = field(default=())


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page to `path`, whole or not at all. All text is escaped; pictures are put into the file."""
    body = "\n".join(_section(section) for section in sections)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f'<!doctype html>\n<html lang="en">{head}<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n'
    write_whole(path, text)


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.heading)}</h2>", *(f"<p>{escape(text)}</p>" for text in section.text)]
    return "\n".join([*parts, *map(_table, section.tables), *map(_picture, section.pictures)])


def _table(table: PageTable) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return f"<table><tr>{head}</tr>\n{rows}</table>"


def _cell(cell: Cell) -> str:
    place = "" if isinstance(cell, str) else ' class="n"'
    return f"<td{place}>{escape(cell_text(cell))}</td>"


def _picture(path: Path) -> str:
    content = b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(path.stem)}" src="data:{_MEDIA[path.suffix]};base64,{content}">'

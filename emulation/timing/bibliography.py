"""The publications that figures are from: number, title, authors, and where in each a figure stands.
Knows its file, `bibliography.yaml`, and how a source cites it; knows no profile.

A source cites a figure as `arXiv 2511.20172 (Beluga) [device]`: the work's number, and the figure's key in the file."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

BIBLIOGRAPHY = Path(__file__).parent / "bibliography.yaml"
NUMBER = re.compile(r"\b\d{4}\.\d{5}\b")
_CITATION = re.compile(r"arXiv (\d{4}\.\d{5})(?: \([^()]*\))?(?: \[([\w-]+)\])?")


@dataclass(frozen=True)
class CitedFigure:
    """One figure of a work. values: the numbers taken from it, in `unit`; place: its table or figure, or `not known`."""

    what: str
    values: tuple[float, ...]
    unit: str
    place: str


@dataclass(frozen=True)
class Work:
    """One publication. titles_checked: whether title and authors were read off it; read: whether the figures were."""

    arxiv: str
    short: str
    title: str
    authors: tuple[str, ...]
    titles_checked: bool
    read: bool
    figures: Mapping[str, CitedFigure]


@dataclass(frozen=True)
class Citation:
    """What a source cites. figure: None where it names no figure of the work."""

    arxiv: str
    figure: str | None


@cache
def works() -> Mapping[str, Work]:
    """All works of the file, by arXiv number."""
    entries: list[dict[str, Any]] = yaml.safe_load(BIBLIOGRAPHY.read_text(encoding="utf-8"))["works"]
    return {entry["arxiv"]: _work(entry) for entry in entries}


def citations(source: str) -> Iterator[Citation]:
    """The works and figures that a source cites, in order."""
    return (Citation(found[1], found[2]) for found in _CITATION.finditer(source))


def _work(entry: dict[str, Any]) -> Work:
    figures = {
        key: CitedFigure(figure["what"], tuple(figure["values"]), figure["unit"], figure["place"])
        for key, figure in entry["figures"].items()
    }
    return Work(**{**entry, "authors": tuple(entry["authors"]), "figures": figures})

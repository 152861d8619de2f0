"""README and docs/ beside the code: examples run, links lead somewhere, and tables name what the code has, no more and no less."""

import importlib
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from emulation.calibration.fetch import fig3_points, fig5_points
from emulation.calibration.readings import summary
from emulation.calibration.serving import FIG9, FIG10, FIG11, TAILS, fig4_points, headline_points, points
from emulation.errors import CxlbedError
from emulation.schemas import SCHEMAS
from emulation.timing.misses import BufferLaw, ReuseLaw
from emulation.timing.profile import Profile, load_profile, parse_profile
from emulation.timing.tiers import FIG5_PROFILES, PREFIX_ENGINE
from guest.errors import GuestError
from qemu_configs.bedfile import json_schema, load
from qemu_configs.errors import ConfigError
from sac_runtime.errors import SacError
from sac_runtime.label import Label
from sac_runtime.traces.synthetic import SyntheticSpec

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
}
EXAMPLES = {
    example.strip(): name
    for name, text in PAGES.items()
    for example in re.findall(r"^\$ (cxlbed [^#\n]+)", text, flags=re.MULTILINE)
}  # each once, whatever the number of pages that show it


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_as_it_stands(example):
    ended = subprocess.run(
        [sys.executable, "-m", "emulation", *shlex.split(example)[1:]],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.strip()


def test_the_readme_has_examples_and_at_most_120_lines():
    assert re.findall(r"^\$ cxlbed (\w+)", PAGES["README.md"], flags=re.MULTILINE)
    assert len(PAGES["README.md"].splitlines()) <= 120


def test_the_scripts_that_the_readme_names_can_be_run():
    for script in set(re.findall(r"\./(scripts/\w+)", PAGES["README.md"])):
        assert (ROOT / script).stat().st_mode & 0o111, script


def test_the_fixture_of_the_readme_compiles():
    (code,) = re.findall(r"```python\n(.*?)```", PAGES["README.md"], flags=re.DOTALL)
    compile(code, "README.md", "exec")


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in _anchors(path.read_text()), target


def test_every_page_can_be_reached_from_the_readme():
    for name in PAGES:
        assert name == "README.md" or f"({name})" in PAGES["README.md"], name


def test_the_tree_of_errors_is_drawn_as_it_is():
    drawn = _drawn_errors(PAGES["docs/results.md"])
    assert drawn == {error: status for root in _error_roots() for error, status in _tree(root)}


@pytest.mark.parametrize("verb", ["run", "latency", "serve", "numa", "soak"])
def test_every_field_of_a_record_is_explained(verb):
    section = PAGES["docs/results.md"].partition(f"## `cxlbed {verb}`\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"\w+", section))
    for statistics, figures in re.findall(r"`\{([\w,]+)\}_\{([\w,]+)\}_ms`", section):
        named |= {f"{one}_{of}_ms" for one in statistics.split(",") for of in figures.split(",")}
    if verb == "latency":  # --list
        named |= set(re.findall(r"\w+", PAGES["docs/profiles.md"]))
    assert {key for part in _parts_of(SCHEMAS[verb]()) for key in part} <= named


def test_every_label_is_explained():
    assert set(_first_cells(PAGES["docs/results.md"], "Labels")) == set(Label)


def test_every_field_of_a_profile_is_explained_and_the_example_is_one():
    page = PAGES["docs/profiles.md"]
    assert set(_first_cells(page, "Fields")) == {field.name for field in fields(Profile)} - {"sources"}
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert parse_profile(example, "docs/profiles.md").name == "my-card"


def test_every_key_of_a_bed_file_is_explained_and_the_example_is_one(tmp_path):
    page = PAGES["docs/bed-file.md"]
    table = page.partition("## Keys")[2].partition("\n\nUnknown")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= {key for part in _parts_of(json_schema()) for key in part}
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    file = tmp_path / "bed.yaml"
    file.write_text(example)
    assert load(str(file)).name == "small-pool"


def test_every_stock_bed_is_named():
    for path in (ROOT / "qemu_configs" / "topologies").glob("*.yaml"):
        assert f"`{path.stem}`" in PAGES["docs/bed-file.md"], path.stem


@pytest.mark.parametrize("package", ["sac_runtime", "emulation"])
def test_the_rooms_are_those_of_the_tree(package):
    section = re.split(rf"### `{package}`[^\n]*\n", PAGES["docs/architecture.md"])[1].partition("\n### ")[0]
    named = set(re.findall(r"^\| `(\w+)/` \|", section.partition("\n## ")[0], flags=re.MULTILINE))
    there = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert named == there


def test_the_errors_of_the_models_are_those_of_cxlbed_calibrate():
    fetch = {"Figure 5": fig5_points({tier: load_profile(name) for tier, name in FIG5_PROFILES.items()})}
    fetch["Figure 3"] = fig3_points(load_profile(PREFIX_ENGINE))
    fig10 = points(FIG10)
    serving = {
        "Figure 4, footprint": fig4_points(),
        "Figure 9, round 1, concurrency 8": points(FIG9),
        "Figure 10, round 2, concurrency 64": fig10,
        "Figure 11, throughput by concurrency, 32K": points(FIG11),
        "latency tails by concurrency, DRAM, 128K": points(TAILS),
        "headline ratios (throughput, TTFT, TBT over RDMA; throughput of DRAM)": headline_points(fig10),
    }
    for name, found in serving.items():
        middle, worst = summary(found)
        assert f"| {name} | {len(found)} | {middle:.1%} | {worst:.1%} |" in PAGES["docs/serving-model.md"]
    words = " ".join(PAGES["README.md"].split())
    for found in (*fetch.values(), fig10):
        middle, worst = summary(found)
        assert f"{middle:.1%} and {worst:.1%} ({len(found)}" in words


def test_the_misses_by_law_are_those_that_the_laws_give():
    for context in (16384, 32768, 65536, 131072):
        laws = BufferLaw.for_context(context), ReuseLaw(SyntheticSpec.published(context))
        buffer, reuse = (law.misses_per_step(6144) for law in laws)
        assert f"| {context >> 10}K | {buffer:.0f} | {reuse:.0f} |" in PAGES["docs/serving-model.md"]


def _anchors(text):
    """Headings as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _first_cells(page, heading):
    """The code words that begin the rows of the first table under a heading."""
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE)


def _drawn_errors(page):
    """(parent, name) -> exit status, of the indented trees."""
    drawn, above = {}, {}
    for indent, name, status in re.findall(r"^( {8,})(\w+Error)  (\d)\b", page, flags=re.MULTILINE):
        above[len(indent)] = name
        drawn[above.get(len(indent) - 2), name] = int(status)
    return drawn


def _error_roots():
    """The four roots, once everything that may define an error below them is imported; models need what CI may lack."""
    for package in ("emulation", "guest", "qemu_configs", "sac_runtime"):
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            if not name.startswith("sac_runtime.models") and not name.endswith("__main__"):
                importlib.import_module(name.removesuffix(".__init__"))
    return CxlbedError, GuestError, ConfigError, SacError


def _tree(error, parent=None):
    yield (parent, error.__name__), error.exit_status
    for below in error.__subclasses__():
        yield from _tree(below, error.__name__)


def _parts_of(schema):
    """The keys of each object of a schema."""
    for part in (schema, *schema.get("$defs", {}).values()):
        yield list(part.get("properties", ()))

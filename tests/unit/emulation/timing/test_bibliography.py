"""Sources that can be checked: every arXiv number in the tree has its entry, every cited figure its place and its value."""

from pathlib import Path

import pytest

from emulation.timing.bibliography import BIBLIOGRAPHY, NUMBER, citations, works
from emulation.timing.profile import load_profile
from emulation.timing.profile_folders import PROFILE_FOLDER

ROOT = Path(__file__).parents[4]
PROFILES = {path.stem: load_profile(str(path)) for path in sorted(PROFILE_FOLDER.glob("*.yaml"))}
FOLDERS = ("docs", "emulation", "guest", "qemu_configs", "sac_runtime", "scripts", "tests")
SUFFIXES = ("", ".py", ".md", ".yaml", ".csv", ".toml", ".cff", ".c", ".h", ".sh")
DERIVED = ("assumed", " x local", "% of DDR", "fitted", "under-load")  # the value is not the work's own number


def value_of(profile, figure):
    """The value of a figure by its dotted name."""
    value = profile
    for step in figure.split("."):
        value = value[step] if isinstance(value, dict) else getattr(value, step)
    return value


def unfounded(profile, figure, source):
    """What is wrong with a source: a work or a figure that has no entry, or a value that is not the entry's."""
    cited = list(citations(source))
    problems = [
        f"{one} has no entry" for one in cited if one.figure not in getattr(works().get(one.arxiv), "figures", {})
    ]
    if len(cited) != len(NUMBER.findall(source)):
        problems.append(f"{source!r} cites without the form 'arXiv NUMBER (Short) [figure]'")
    if cited and not problems and not any(word in source for word in DERIVED):
        known = [value for one in cited for value in works()[one.arxiv].figures[one.figure].values]
        if value_of(profile, figure) not in known:
            problems.append(f"{value_of(profile, figure)} is none of {known}")
    return problems


def test_every_arxiv_number_of_the_tree_has_an_entry():
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    files += [path for path in ROOT.iterdir() if path.suffix in SUFFIXES]
    texts = {path: path.read_text() for path in files if path.is_file() and path != BIBLIOGRAPHY}
    found = {path: NUMBER.findall(text) for path, text in texts.items() if "arxiv" in text.lower()}
    assert len(found) > 20
    assert {(path, number) for path, numbers in found.items() for number in numbers if number not in works()} == set()


def test_every_work_has_a_title_authors_and_a_place_for_each_figure():
    for work in works().values():
        assert work.title
        assert work.authors
        assert work.figures
        for figure in work.figures.values():
            assert figure.what
            assert figure.place
            assert work.read or figure.place == "not known"  # nobody names a place that nobody here has seen


@pytest.mark.parametrize("name", PROFILES)
def test_every_source_of_a_profile_cites_a_figure_that_stands_in_the_bibliography_with_its_value(name):
    for figure, source in PROFILES[name].sources.items():
        assert unfounded(PROFILES[name], figure, source) == [], figure


@pytest.mark.parametrize(
    "source",
    [
        f"arXiv {2608}.99999 (Nobody) [device]: 22.5 GB/s",
        "arXiv 2511.20172 (Beluga) [colour]: 22.5 GB/s",
        "arXiv 2511.20172: 22.5 GB/s",
        "arXiv 2511.20172 (Beluga) [latency]: 750 ns",
    ],
)
def test_a_citation_of_an_unknown_work_figure_or_value_is_noticed(source):
    assert unfounded(PROFILES["cxl-switched-750"], "device.read_bytes_per_ns", source)


def test_what_nobody_could_verify_says_so_and_the_contrary_report_stands_beside_it():
    rising, flat = PROFILES["cxl-switched-220"], PROFILES["gpu-cxl-beluga"]
    for figure in ("read_latency_ns", "adapter.read_bytes_per_ns", "loaded_latency"):
        assert rising.sources[figure].startswith("assumed (source unverified)")
    assert flat.latency_ns(load=0.6) == flat.latency_ns()
    assert rising.latency_ns(load=0.6) == 2 * rising.latency_ns()
    assert "reports the contrary" in rising.sources["loaded_latency"]


def test_the_two_readings_of_latency_under_load_are_two_profiles_of_one_subject():
    rising, flat = PROFILES["sac-gpu-cxl"], PROFILES["sac-gpu-cxl-flat"]
    assert rising.subject == flat.subject == PROFILES["gpu-cxl-beluga"].subject
    differing = {key for key, value in vars(rising).items() if value != getattr(flat, key)}
    assert differing == {"name", "summary", "loaded_latency", "sources"}

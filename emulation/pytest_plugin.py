"""The pytest plugin: a booted bed as a fixture. Knows pytest's hooks; what boots beds is loaded with the first one.

    @pytest.mark.cxlbed("shared-pool")
    def test_mine(bed): ...

A topology is a stock one or a bed file, which may lie beside the test. A bed is booted once per session and topology, and
reused; `@pytest.mark.cxlbed("direct", fresh=True)` gets one of its own. Every bed is ended with the session, whatever
happened. Where a bed cannot be had the test is skipped with the missing thing named; with CXLBED_NO_SKIPS=1 (CI) it fails
instead. A failed test carries the hosts' consoles and QEMU logs.

pytest loads this file in every run of an environment that has cxlbed: imports of ours stand in the fixtures.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from emulation.machines.bed import Bed

LOG_TAIL_LINES = 60
_BED = pytest.StashKey["Bed"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cxlbed", "emulated CXL hosts")
    group.addoption("--cxlbed-accelerator", default="auto", help="auto, kvm or tcg (default: auto)")
    group.addoption("--cxlbed-uri", default="embedded", help="'embedded' or a libvirt URI (default: embedded)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "cxlbed(topology, fresh=False): the `bed` fixture is a booted bed of this topology"
    )


@pytest.fixture(scope="session")
def cxlbed_beds(request: pytest.FixtureRequest) -> "Iterator[Callable[[str, bool], Bed]]":
    """Boots beds by topology name, keeps one of each for the session, ends all of them with it."""
    from emulation.errors import CxlbedError
    from emulation.machines.launch import Options
    from emulation.session_beds import SessionBeds, missing_tool, skips_are_failures

    if missing := missing_tool():
        if skips_are_failures():
            raise CxlbedError(f"a VM test cannot run: {missing}; see: cxlbed doctor")
        pytest.skip(f"{missing}; run scripts/setup")
    uri, accelerator = (request.config.getoption(f"--cxlbed-{name}") for name in ("uri", "accelerator"))
    with SessionBeds(Options(uri=uri, accelerator=accelerator)) as beds:
        yield beds.get


@pytest.fixture
def bed(request: pytest.FixtureRequest, cxlbed_beds: "Callable[[str, bool], Bed]") -> "Iterator[Bed]":
    """A booted bed of the topology that the test's `cxlbed` mark names."""
    topology, fresh = _asked_for(request.node)
    booted = cxlbed_beds(topology, fresh)
    request.node.stash[_BED] = booted
    yield booted
    if fresh:
        from emulation.machines.bed import down
        from emulation.session_beds import say

        down(booted.record.name, say)


def _asked_for(node: pytest.Item) -> tuple[str, bool]:
    """What the test's mark says: topology and fresh. A file is looked for beside the test, then from pytest's root, then from
    where pytest was started."""
    mark = node.get_closest_marker("cxlbed")
    words = {} if mark is None else {**dict(zip(("topology", "fresh"), mark.args, strict=False)), **mark.kwargs}
    if mark is None or len(mark.args) > 2 or not words.keys() <= {"topology", "fresh"} or "topology" not in words:
        raise pytest.UsageError(
            f'{node.nodeid}: the fixture bed needs a mark: @pytest.mark.cxlbed("direct") or cxlbed(topology="direct", fresh=True)'
        )
    from qemu_configs.file_paths import is_path

    topology = str(words["topology"])
    folders = (node.path.parent, node.config.rootpath) if is_path(topology) else ()
    beside = next((folder / topology for folder in folders if (folder / topology).is_file()), topology)
    return str(beside), bool(words.get("fresh", False))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Attach what the hosts said to a failure."""
    outcome: Any = yield
    report = outcome.get_result()
    booted = item.stash.get(_BED, None)
    if report.failed and booted is not None:
        for name, text in booted.logs().items():
            report.sections.append((f"{booted.record.name}: {name}", "\n".join(text.splitlines()[-LOG_TAIL_LINES:])))

"""The pytest plugin: a booted bed as a fixture. Knows pytest and beds.

    @pytest.mark.cxlbed("shared-pool")
    def test_mine(bed): ...

A bed is booted once per session and topology and reused; `@pytest.mark.cxlbed("direct", fresh=True)` gets one of its
own. Every bed is ended with the session, whatever happened. Where a bed cannot be had the test is skipped with the missing
thing named; with CXLBED_NO_SKIPS=1 (CI) it fails instead. A failed test carries the hosts' consoles and QEMU logs.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from emulation.errors import CxlbedError
from emulation.machines import bed as beds
from emulation.machines.bed import EMULATOR, Bed, Options
from emulation.machines.this_machine import this_machine
from guest.image import cache as image
from guest.image.recipe import STOCK
from qemu_configs import bedfile

LOG_TAIL_LINES = 60


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cxlbed", "emulated CXL hosts")
    group.addoption("--cxlbed-accelerator", default="auto", help="auto, kvm or tcg (default: auto)")
    group.addoption("--cxlbed-uri", default="embedded", help="'embedded' or a libvirt URI (default: embedded)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "cxlbed(topology, fresh=False): the `bed` fixture is a booted bed of this topology"
    )


@pytest.fixture(scope="session")
def cxlbed_beds(request: pytest.FixtureRequest) -> Iterator[Callable[[str, bool], Bed]]:
    """Boots beds by topology name, keeps one of each for the session, ends all of them with it."""
    _require_tools()
    options = Options(
        uri=request.config.getoption("--cxlbed-uri"), accelerator=request.config.getoption("--cxlbed-accelerator")
    )
    kept: dict[str, Bed] = {}
    with ExitStack() as ending:

        def boot(name: str) -> Bed:
            wanted = bedfile.load(name, this_machine())
            bed_name = f"t-{wanted.name[:16]}-{secrets.token_hex(4)}"
            ending.callback(beds.down, bed_name, _say)
            return beds.up(wanted, bed_name, options, _say)

        def get(name: str, fresh: bool) -> Bed:
            if fresh:
                return boot(name)
            if name not in kept:
                kept[name] = boot(name)
            return kept[name]

        yield get


@pytest.fixture
def bed(request: pytest.FixtureRequest, cxlbed_beds: Callable[[str, bool], Bed]) -> Iterator[Bed]:
    """A booted bed of the topology that the test's `cxlbed` mark names."""
    mark = request.node.get_closest_marker("cxlbed")
    if mark is None or len(mark.args) != 1:
        raise pytest.UsageError(f'{request.node.nodeid}: the fixture bed needs a mark: @pytest.mark.cxlbed("direct")')
    fresh = bool(mark.kwargs.get("fresh", False))
    booted = cxlbed_beds(mark.args[0], fresh)
    request.node.stash[_BED] = booted
    yield booted
    if fresh:
        beds.down(booted.record.name, _say)


_BED = pytest.StashKey[Bed]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Attach what the hosts said to a failure."""
    outcome: Any = yield
    report = outcome.get_result()
    booted = item.stash.get(_BED, None)
    if report.failed and booted is not None:
        for name, text in booted.logs().items():
            report.sections.append((f"{booted.record.name}: {name}", "\n".join(text.splitlines()[-LOG_TAIL_LINES:])))


def _require_tools() -> None:
    """Skip, or fail where no skip is allowed, with the missing thing named."""
    missing = None
    if shutil.which(EMULATOR) is None:
        missing = f"{EMULATOR} is not in PATH"
    elif not any(held.hash == STOCK.hash for held in image.list_images()) and shutil.which("mmdebstrap") is None:
        missing = "no guest image in the cache, and mmdebstrap is missing to build one"
    if missing is None:
        return
    if os.environ.get("CXLBED_NO_SKIPS"):
        raise CxlbedError(f"a VM test cannot run: {missing}; see: cxlbed doctor")
    pytest.skip(f"{missing}; run scripts/setup")


def _say(text: str) -> None:
    print(f"cxlbed: {text}", flush=True)  # noqa: T201

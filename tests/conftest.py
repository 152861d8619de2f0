"""Rules of the whole suite: in CI (CXLBED_NO_SKIPS=1) a skip that is not expected here is a failure; tests that boot machines stay
in one worker of a parallel run."""

import os
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

# Without a GPU kernels run in Triton's interpreter, which must be asked for before anything imports Triton.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

# What a machine of CI may be without, or have too much of, worded as the tests' skips word it. Nothing that set-up installs.
EXPECTED_SKIPS = (
    "this CPU has no ",  # an instruction set; the ones below it are tested
    "this kernel gives no huge pages on madvise",
    "this machine has several NUMA nodes: nothing to refuse",
)


class MachinesInOneWorker(LoadScopeScheduling):
    """Tests go out one by one; those that boot machines go to one worker, before all others: they take longest."""

    def _split_scope(self, nodeid):
        return "machines" if nodeid.startswith("tests/vm/") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return MachinesInOneWorker(config, log)


def pytest_addoption(parser):
    parser.addoption(
        "--update-golden", action="store_true", help="Rewrite golden files: of qemu_configs, of calibration."
    )


@pytest.fixture
def update_golden(request):
    return request.config.getoption("--update-golden")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    _fail_if_skipped(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    outcome = yield
    _fail_if_skipped(outcome.get_result())


def _fail_if_skipped(report):
    if not report.skipped or not os.environ.get("CXLBED_NO_SKIPS"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(expected in reason for expected in EXPECTED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: skipped in CI, which did not expect it: {reason}"

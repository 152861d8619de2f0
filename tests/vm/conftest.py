"""What the tests in virtual machines share: the command as its users run it, with beds of its own."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.vm.command import command, environment


@pytest.fixture
def state_folder():
    """A folder of beds that no other test or user sees; short, for the sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="cxlbed-t", dir="/tmp"))
    yield folder
    left = [path.name for path in folder.iterdir() if path.is_dir()]
    subprocess.run([*command(), "down", "--all"], env=environment(folder), check=True, capture_output=True)
    shutil.rmtree(folder)  # not before: without it nobody could find what still runs
    assert left == [], "the test left beds behind"


@pytest.fixture
def cxlbed(state_folder):
    """Runs `cxlbed ARGUMENTS` and returns how it ended."""

    def run(*arguments, **changes):
        return subprocess.run(
            [*command(), *arguments],
            env=environment(state_folder, **changes),
            capture_output=True,
            text=True,
            timeout=180,
        )

    return run

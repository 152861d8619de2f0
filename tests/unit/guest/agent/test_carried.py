"""What a bed puts on its guests' Python path is enough for the agent: nothing else of ours is within reach."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emulation.machines.bed import carried
from guest.session import PYTHON_PATH


@pytest.fixture
def host(tmp_path):
    """Runs Python with what a guest has on its path, and no more of this repository."""
    for place, source in carried().items():
        target = tmp_path / Path(place).relative_to(PYTHON_PATH)
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)

    def run(*arguments, stdin=b""):
        environment = {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1", "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            [sys.executable, *arguments], input=stdin, capture_output=True, env=environment, cwd=tmp_path, check=False
        )

    return run


def test_the_agents_modules_come_from_what_was_carried(host, tmp_path):
    ended = host("-c", "import guest.agent.worker as worker; print(worker.__file__)")
    assert ended.stdout.decode().strip() == str(tmp_path / "guest" / "agent" / "worker.py"), ended.stderr.decode()


def test_the_placement_is_reported_or_refused_for_one_node(host):
    ended = host("-m", "guest.agent.numa_report", str(16 << 20))
    if ended.returncode == 3:
        assert b"machine: has one NUMA node" in ended.stderr
    else:
        assert json.loads(ended.stdout)["problems"] == [], ended.stderr.decode()

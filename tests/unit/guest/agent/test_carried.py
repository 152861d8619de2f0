"""What a bed puts on its guests' Python path is enough for the agent: nothing else of ours is within reach."""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from emulation.machines.launch import carried
from guest.agent.answer import AnswerDraft
from guest.agent.protocol import Kind, Message, read_message, write_message
from guest.agent.task import Task
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


def test_the_agent_writes_a_context_and_decodes_from_it_with_what_was_carried(host, tmp_path):
    task = Task(f"shared:{tmp_path / 'pool'}", "bf16", 100, 1, 2, 8, 16, 1, 0.1)
    tokens = {"tokens": np.arange(100)}
    query = {
        "scores": np.arange(101, dtype=np.float32),
        "query": np.ones((2, 576), np.float32),
        "row": np.ones(1152, np.uint8),
    }
    request = io.BytesIO()
    for message in (
        Message(Kind.OPEN, {"runtime": "sac", "task": asdict(task)}),
        Message(Kind.POPULATE, {}, tokens),
        Message(Kind.ROWS, {}, {"rows": np.zeros((100, 1152), np.uint8)}),
        Message(Kind.FETCH, {}, tokens),
        Message(Kind.QUERY, {}, query),
        Message(Kind.CLOSE),
    ):
        write_message(request, message)
    ended = host("-m", "guest.agent.worker", stdin=request.getvalue())
    assert ended.returncode == 0, ended.stderr.decode()
    answers = io.BytesIO(ended.stdout)
    opened, populated, output, written, answer, closed = iter(lambda: read_message(answers), None)
    assert opened.kind is populated.kind is closed.kind is Kind.DONE
    draft = AnswerDraft(task)
    draft.note(0, 0, output)
    draft.note_written(0, written)
    assert draft.finished(answer).positions.tolist() == [[[93, 94, 95, 96, 97, 98, 99, 100]]]


def test_the_placement_is_reported_or_refused_for_one_node(host):
    ended = host("-m", "guest.agent.numa_report", str(16 << 20))
    if ended.returncode == 3:
        assert b"machine: has one NUMA node" in ended.stderr
    else:
        assert json.loads(ended.stdout)["problems"] == [], ended.stderr.decode()

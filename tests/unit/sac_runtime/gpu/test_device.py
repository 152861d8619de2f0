"""What is said where no GPU can be used."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sac_runtime.errors import GpuError
from sac_runtime.gpu.device import require_gpu

ROOT = Path(__file__).parents[4]
COMMANDS = [["-m", "emulation", "latency", "--device", "cuda"], ["scripts/bench/gpu.py"]]


def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_missing_gpu_is_named_with_what_would_help(monkeypatch):
    without_gpu(monkeypatch)
    with pytest.raises(GpuError, match=r"gpu: .* its driver and a torch with CUDA"):
        require_gpu()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each[-1])
def test_a_command_that_needs_a_gpu_ends_with_3_where_there_is_none(command):
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "HOME": "/nonexistent"}
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 3, ended.stderr
    assert "gpu: " in ended.stderr

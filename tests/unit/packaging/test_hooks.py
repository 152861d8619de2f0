"""Each hook sees the files that it is for, with '#!' or without."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NO_SHEBANG = "# shellcheck shell=sh\nfor word in $1; do rm -r $word/*; done\n"


def run_hook(hook, folder, name, text):
    (folder / name).write_text(text)
    (folder / name).chmod(0o755 if text.startswith("#!") else 0o644)
    shutil.copy(ROOT / ".pre-commit-config.yaml", folder)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run(["git", "add", "."], cwd=folder, check=True)
    command = [sys.executable, "-m", "pre_commit", "run", hook, "--all-files"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck in PATH")
@pytest.mark.parametrize("first_line, name", [("", "guest.sh"), ("#!/bin/sh\n", "script")])
def test_shellcheck_sees_a_script_by_its_name_or_its_first_line(tmp_path, first_line, name):
    ended = run_hook("shellcheck", tmp_path, name, first_line + NO_SHEBANG)
    assert ended.returncode != 0
    assert "SC2115" in ended.stdout or "SC2086" in ended.stdout

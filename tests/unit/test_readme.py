"""The README's examples run as they stand, and what it points to is there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^\$ (cxlbed [^#\n]+)", README, flags=re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=str.strip)
def test_an_example_of_the_readme_runs(example):
    arguments = shlex.split(example)[1:]
    program = [sys.executable, "-c", "from emulation.cli import main; main()"]
    ended = subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.strip()


def test_the_readme_has_examples_and_every_file_it_names_is_there():
    assert len(EXAMPLES) >= 4
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for script in set(re.findall(r"\./(scripts/\w+)", README)):
        assert (ROOT / script).stat().st_mode & 0o111, script


def test_the_fixture_of_the_readme_compiles():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    compile(code, "README.md", "exec")

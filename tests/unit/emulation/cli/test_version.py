"""`cxlbed --version`: what it says, and that it loads nothing that takes long."""

import subprocess
import sys

from typer.testing import CliRunner

from emulation.cli.app import app
from emulation.version import version

SLOW = ("libvirt", "matplotlib", "numpy", "pydantic", "rich", "typer", "yaml")
PROGRAM = """
import sys
from emulation.cli import main
sys.argv = ["cxlbed", "--version"]
main()
sys.exit(", ".join(set(sys.modules) & set({slow})) or 0)
"""


def test_the_version_is_told_without_loading_a_verb():
    ended = subprocess.run([sys.executable, "-c", PROGRAM.format(slow=SLOW)], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.strip()) == (0, "")
    assert ended.stdout == f"cxlbed {version}\n"


def test_python_m_emulation_is_the_command():
    ended = subprocess.run([sys.executable, "-m", "emulation", "--version"], capture_output=True, text=True)
    assert ended.stdout == f"cxlbed {version}\n"


def test_the_version_is_an_option_that_the_help_names():
    assert CliRunner().invoke(app, ["--version"]).output == f"cxlbed {version}\n"
    assert "--version" in CliRunner().invoke(app, ["--help"], color=False).output

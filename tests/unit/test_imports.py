"""What each package may import from elsewhere, read off the sources, function bodies and type-checking blocks included; and that
the walls between our own rooms (import-linter's contracts in pyproject.toml, which scripts/check holds us to) notice a breach."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("emulation", "guest", "qemu_configs", "sac_runtime")
HOMES = {  # a third-party edge has one home
    "libvirt": {"emulation/machines/domain.py"},
    "libvirt_qemu": {"emulation/machines/domain.py"},
    "fabric": {"guest/session.py"},
    "paramiko": {"guest/session.py"},
    "jinja2": {"qemu_configs/render.py"},
}


def imports(path):
    """Names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(folder):
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if "__pycache__" not in path.parts]


@pytest.mark.parametrize("edge", sorted(HOMES))
def test_a_third_party_edge_has_one_home(edge):
    used = {str(path.relative_to(ROOT)) for package in OURS for path in sources(package) if edge in set(imports(path))}
    assert used == HOMES[edge]


def test_what_runs_in_a_guest_needs_numpy_and_the_standard_library_alone():
    known = {*sys.stdlib_module_names, "numpy", "sac_runtime"}
    outside = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in [*sources("sac_runtime"), *sources("guest/agent")]
        if path.parent.name not in ("gpu", "models")  # these run on hosts with PyTorch
        for name in imports(path)
        if name.split(".")[0] not in known and not name.startswith("guest.agent.")
    ]
    assert outside == []


def test_an_import_in_a_function_is_seen(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def f():\n    from emulation.machines import bed\n    return bed\n")
    assert "emulation.machines.bed" in set(imports(broken))


BREACHES = {  # file -> an import that its walls forbid
    "sac_runtime/errors.py": "import emulation.errors, guest.errors",
    "sac_runtime/memory/store.py": "from sac_runtime.pool.pool import Pool",
    "sac_runtime/traces/replay.py": "from sac_runtime.fetch.step import step",
    "qemu_configs/render.py": "import sac_runtime.label",
    "guest/keys.py": "import sac_runtime.label",
    "guest/agent/guards.py": "from guest.session import Session",
    "emulation/latency/modelled.py": "from emulation.machines.bed import Bed",
    "emulation/serving/spec.py": "from emulation.serving.engine import Server",
    "emulation/serving/sweep.py": "import rich",
    "emulation/a_room_without_a_floor.py": "",
}


def test_walls_that_are_breached_are_named(tmp_path):
    for package in OURS:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, line in BREACHES.items():
        with (tmp_path / file).open("a") as source:
            source.write(f"\n{line}\n")
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    ours = os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "160"}
    ended = subprocess.run(command, cwd=tmp_path, env=ours, capture_output=True, text=True)
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    walls = {contract["name"] for contract in config["tool"]["importlinter"]["contracts"]}
    assert ended.returncode == 1
    assert {wall for wall in walls if f"\n{wall} BROKEN" in ended.stdout} == walls
    assert "a_room_without_a_floor" in ended.stdout

"""Who may import whom: the design's rule, read off the sources, function bodies and type-checking blocks included."""

import ast
import sys
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


def breaches(folder, forbidden, but=""):
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(folder)
        if path.parent != ROOT / but
        for name in imports(path)
        if name.split(".")[0] in forbidden or any(name == f or name.startswith(f"{f}.") for f in forbidden)
    ]


@pytest.mark.parametrize("package", ["guest", "qemu_configs", "sac_runtime"])
def test_a_package_below_emulation_imports_none_of_ours(package):
    assert breaches(package, [name for name in OURS if name != package], but="guest/agent") == []


@pytest.mark.parametrize("folder", ["emulation/timing", "emulation/stores"])
def test_timing_and_stores_never_import_machines(folder):
    assert breaches(folder, ["emulation.machines"]) == []


@pytest.mark.parametrize("edge", sorted(HOMES))
def test_a_third_party_edge_has_one_home(edge):
    used = {str(path.relative_to(ROOT)) for package in OURS for path in sources(package) if edge in set(imports(path))}
    assert used == HOMES[edge]


def test_what_runs_in_a_guest_needs_numpy_and_the_standard_library_alone():
    known = {*sys.stdlib_module_names, "numpy", "sac_runtime"}
    outside = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in [*sources("sac_runtime"), *sources("guest/agent")]
        if path.parent.name != "models"  # models run on hosts with PyTorch
        for name in imports(path)
        if name.split(".")[0] not in known and not name.startswith("guest.agent.")
    ]
    assert outside == []


def test_the_rule_would_be_seen_broken(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def f():\n    from emulation.machines import bed\n    return bed\n")
    assert "emulation.machines.bed" in set(imports(broken))

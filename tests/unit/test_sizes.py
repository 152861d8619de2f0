"""Sizes of functions and files, and where imports stand, read off the sources: what CONTRIBUTING.md bounds."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = {"emulation": 400, "guest": 400, "qemu_configs": 400, "sac_runtime": 400, "scripts": 400, "tests": 500}
MOST_LINES_OF_A_FUNCTION = 60
LONG_FUNCTIONS = {
    "emulation/cli/serve.py: serve": "a line per option",  # and why
    "sac_runtime/gpu/kernels.py: plan_kernel": "a launch has one argument per array and stride, each on a line",
}
LATE_IMPORTS = {  # files that import where they use it, and why
    "emulation/cli/latency.py": "torch and Triton, which a GPU's fetches alone need, may not be installed",
    "emulation/pytest_plugin.py": "pytest loads it in every run of an environment that has cxlbed",
    "emulation/report/plots.py": "matplotlib takes longer than most verbs",
    "scripts/bench/gpu.py": "a machine without matplotlib measures without a picture",
    "guest/agent/runtime.py": "importlib.metadata is a fifth of the start of a worker that needs it seldom",
}
TYPES_ALONE = {  # files that import for types alone, and why
    "emulation/__init__.py": "the public surface is loaded as it is used",
    "sac_runtime/__init__.py": "the public surface is loaded as it is used",
    "emulation/pytest_plugin.py": "pytest loads it in every run of an environment that has cxlbed",
}
SOURCES = {path: ast.parse(path.read_text()) for folder in MOST_LINES for path in sorted((ROOT / folder).rglob("*.py"))}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def name_of(path):
    return str(path.relative_to(ROOT))


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]


def num_lines(function):
    return function.end_lineno - function.lineno + 1


def imports_late(tree):
    return any(
        isinstance(node, ast.Import | ast.ImportFrom) for function in functions(tree) for node in ast.walk(function)
    )


def imports_for_types(tree):
    return any(isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) for node in ast.walk(tree))


@pytest.mark.parametrize("folder", MOST_LINES)
def test_no_file_is_longer_than_its_folder_allows(folder):
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES[folder]} == {}


def test_no_function_is_longer_than_a_screen_but_for_those_with_a_reason():
    long = {
        f"{name_of(path)}: {function.name}": num_lines(function)
        for path, tree in SOURCES.items()
        for function in functions(tree)
        if num_lines(function) > MOST_LINES_OF_A_FUNCTION
    }
    assert set(long) == set(LONG_FUNCTIONS)


def test_imports_stand_at_the_top_but_for_those_with_a_reason():
    late = {name_of(path) for path, tree in SOURCES.items() if imports_late(tree)}
    assert {name for name in late if not name.startswith("tests/")} == set(LATE_IMPORTS)


def test_imports_for_types_alone_have_a_reason():
    for_types = {name_of(path) for path, tree in SOURCES.items() if imports_for_types(tree)}
    assert for_types == set(TYPES_ALONE)


def test_a_late_import_and_one_for_types_are_seen():
    assert imports_late(ast.parse("def f():\n    import os\n    return os"))
    assert imports_for_types(ast.parse("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import os"))
    assert not imports_late(ast.parse("import os\ndef f():\n    return os"))

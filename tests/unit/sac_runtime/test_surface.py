"""What `import sac_runtime` offers, and what it costs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import sac_runtime

SOURCE = Path(sac_runtime.__file__)


def names_for_type_checkers():
    """Module -> names, of the TYPE_CHECKING block."""
    block = next(node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    return {node.module: tuple(alias.name for alias in node.names) for node in block.body}


def test_every_public_name_is_there_and_is_what_its_home_calls_so():
    for module, names in sac_runtime._HOMES.items():
        for name in names:
            assert getattr(sac_runtime, name) is getattr(importlib.import_module(module), name)
            assert getattr(sac_runtime, name).__module__ == module, "its home is where it is defined"


def test_all_names_the_whole_surface_in_order():
    assert sorted(sac_runtime._HOME_OF) == sac_runtime.__all__
    assert set(sac_runtime.__all__) <= set(dir(sac_runtime))


def test_type_checkers_see_the_names_that_are_loaded():
    assert names_for_type_checkers() == sac_runtime._HOMES


def test_a_star_import_brings_the_surface_and_nothing_else():
    scope = {}
    exec("from sac_runtime import *", scope)
    assert set(scope) - {"__builtins__"} == set(sac_runtime.__all__)


def test_a_name_that_is_not_public_is_refused_with_those_that_are():
    with pytest.raises(AttributeError, match=r"no attribute 'nothing' .*MappedStore"):
        _ = sac_runtime.nothing


def test_importing_it_alone_loads_neither_numpy_nor_any_room():
    code = "import sys, sac_runtime; print([n for n in sys.modules if n == 'numpy' or n.startswith('sac_runtime.')])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == "[]"


def test_it_says_that_it_is_typed():
    assert SOURCE.with_name("py.typed").exists()

"""What `import emulation` offers, and what it costs."""

import importlib
import subprocess
import sys

import pytest

import emulation

HEAVY = (
    "fabric",
    "jinja2",
    "libvirt",
    "matplotlib",
    "numpy",
    "paramiko",
    "psutil",
    "pydantic",
    "rich",
    "typer",
    "yaml",
)


def test_every_public_name_is_there_and_is_what_its_home_calls_so():
    for module, names in emulation._HOMES.items():
        for name in names:
            assert getattr(emulation, name) is getattr(importlib.import_module(module), name)


def test_all_names_the_whole_surface_in_order():
    assert sorted(emulation._HOME_OF) == emulation.__all__
    assert set(emulation.__all__) <= set(dir(emulation))


def test_a_name_that_is_not_public_is_refused_with_those_that_are():
    with pytest.raises(AttributeError, match=r"no attribute 'boot' .*booted"):
        emulation.boot  # noqa: B018


@pytest.mark.parametrize("module", ["emulation", "emulation.pytest_plugin"])
def test_importing_it_alone_loads_nothing_heavy(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"

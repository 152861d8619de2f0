"""How a runtime under test is found by its name."""

import sys

import pytest

from guest.agent import sac
from guest.agent.errors import RequestError
from guest.agent.runtime import BitFlipper, find_runtime
from tests.support import plain_runtime


def test_the_reference_runtime_is_sac_and_can_spoil_what_it_wrote():
    assert find_runtime("sac") is sac.open_runtime
    assert issubclass(sac.SacRuntime, BitFlipper)


def test_a_modules_path_names_its_open_runtime_or_another_function_of_it():
    assert find_runtime("tests.support.plain_runtime") is plain_runtime.open_runtime
    assert find_runtime("tests.support.plain_runtime:one_head") is plain_runtime.one_head


def test_an_installed_package_names_its_runtimes_by_entry_point(tmp_path, monkeypatch):
    installed = tmp_path / "stranger-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[cxlbed.runtimes]\nstranger = tests.support.plain_runtime:open_runtime\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert find_runtime("stranger") is plain_runtime.open_runtime
    with pytest.raises(RequestError, match=r"runtime 'strange': is not installed here \(known: sac, stranger\)"):
        find_runtime("strange")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no.such.module", "runtime 'no.such.module': No module named 'no'; is it on this host's Python path?"),
        ("tests.support.plain_runtime:none", "has no function none(task)"),
        ("tests.support.plain_runtime:Path.home", "has no function Path.home(task)"),
        ("json", "is not installed here"),
        ("json:", "runtime 'json:': has no function open_runtime(task)"),
    ],
)
def test_a_name_that_leads_to_no_runtime_is_refused_with_the_reason(name, problem):
    with pytest.raises(RequestError) as refused:
        find_runtime(name)
    assert problem in str(refused.value)

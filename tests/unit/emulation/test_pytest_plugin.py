"""What a test's mark asks for, without booting it: the session's beds are replaced by one that tells what it was asked."""

import pytest

pytest_plugins = ["pytester"]

BEDS = """
import pytest
from types import SimpleNamespace


@pytest.fixture(scope="session")
def cxlbed_beds():
    return lambda topology, fresh: SimpleNamespace(topology=topology, asked_fresh=fresh, logs=dict)
"""

MARKS = """
import pytest
from pathlib import Path

HERE = Path(__file__).parent

@pytest.mark.cxlbed("direct")
def test_name(bed): assert (bed.topology, bed.asked_fresh) == ("direct", False)

@pytest.mark.cxlbed(topology="direct")
def test_keyword(bed): assert bed.topology == "direct"

@pytest.mark.cxlbed("mine.yaml")
def test_file_beside_the_test(bed): assert Path(bed.topology) == HERE / "mine.yaml"

@pytest.mark.cxlbed(topology="beds/theirs.yaml")
def test_file_from_the_root(bed): assert Path(bed.topology) == HERE.parent / "beds" / "theirs.yaml"

@pytest.mark.cxlbed("nowhere.yaml")
def test_file_that_is_nowhere_is_left_to_the_reader(bed): assert bed.topology == "nowhere.yaml"
"""

MISTAKES = """
import pytest

def test_none(bed): pass

@pytest.mark.cxlbed
def test_bare(bed): pass

@pytest.mark.cxlbed(name="direct")
def test_other_keyword(bed): pass

@pytest.mark.cxlbed("direct", False, "more")
def test_too_many(bed): pass
"""


@pytest.fixture
def project(pytester):
    pytester.makeconftest(BEDS)
    for folder, name in (("tests", "mine.yaml"), ("beds", "theirs.yaml")):
        pytester.mkdir(folder).joinpath(name).write_text("name: x")
    return pytester


def test_a_mark_takes_its_keyword_and_a_file_beside_the_test_or_below_the_root(project):
    project.path.joinpath("tests", "test_marks.py").write_text(MARKS)
    project.runpytest_inprocess("tests").assert_outcomes(passed=5)


def test_a_mark_that_names_no_topology_is_told_what_it_should_be(project):
    project.makepyfile(MISTAKES)
    result = project.runpytest_inprocess()
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines(
        ['*needs a mark: @pytest.mark.cxlbed("direct") or cxlbed(topology="direct", fresh=True)*']
    )

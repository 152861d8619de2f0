"""The pytest plugin as another project's tests use it."""

import pytest

pytest_plugins = ["pytester"]

ONE_TEST = """
    import pytest

    @pytest.mark.cxlbed("direct")
    def test_the_host_has_its_memory(bed):
        with bed.session("a") as session:
            session.run("test -c /dev/dax0.0")
"""


@pytest.fixture
def other_project(pytester, monkeypatch, state_folder):
    monkeypatch.setenv("CXLBED_STATE_DIR", str(state_folder))
    return pytester


def test_a_bed_is_skipped_with_the_missing_thing_named(other_project, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXLBED_EMULATOR", "system")
    monkeypatch.delenv("CXLBED_NO_SKIPS", raising=False)
    other_project.makepyfile(ONE_TEST)
    result = other_project.runpytest_subprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*qemu-system-x86_64 is not in PATH (*; run scripts/setup*"])


def test_where_no_skip_is_allowed_the_missing_thing_is_an_error(other_project, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXLBED_EMULATOR", "system")
    monkeypatch.setenv("CXLBED_NO_SKIPS", "1")
    other_project.makepyfile(ONE_TEST)
    result = other_project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*a VM test cannot run: qemu-system-x86_64 is not in PATH*"])


def test_one_bed_serves_a_session_a_failure_carries_its_console_and_nothing_is_left(other_project, state_folder):
    other_project.makepyfile(
        ONE_TEST
        + """
    @pytest.mark.cxlbed("direct")
    def test_that_fails(bed):
        print("bed is", bed.record.name)
        assert False
"""
    )
    result = other_project.runpytest_subprocess("-rA")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*t-direct-*: a console*", "*Server listening on*", "*t-direct-*: a QEMU log*"])
    booted = [line for line in result.outlines if "starting a (" in line]
    assert len(booted) == 1, "the second test must have used the first one's bed"
    assert not any(path.is_dir() for path in state_folder.iterdir())


def test_a_bed_without_a_mark_is_a_usage_error(other_project):
    other_project.makepyfile("def test_it(bed): pass")
    result = other_project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*needs a mark: @pytest.mark.cxlbed*"])

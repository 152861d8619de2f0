import json

import pytest

from qemu_configs.bedfile import find
from tests.support.command import cxlbed


@pytest.fixture
def faulty(tmp_path):
    path = tmp_path / "faulty.yaml"
    path.write_text(find("direct").read_text().replace("size: 4G", "size: 5000M").replace("vcpus", "cpus"))
    return path


def test_check_takes_stock_names_and_says_usable():
    done = cxlbed("check", "direct", "shared-pool")
    assert (done.returncode, done.stdout) == (0, "direct: usable\nshared-pool: usable\n")


def test_check_says_that_dynamic_capacity_stays_offline():
    done = cxlbed("check", "dynamic-capacity")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "dynamic-capacity: usable",
        "dynamic-capacity: note: host 'a': device 'mem0': dynamic capacity stays offline "
        "(no stock Linux up to 7.3 takes its extents)",
    ]


def test_check_shows_every_problem_of_every_file_and_ends_with_2(faulty):
    done = cxlbed("check", faulty, "nowhere", "direct")
    assert done.returncode == 2
    assert done.stdout == "direct: usable\n"
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == [str(faulty), str(faulty), "nowhere"]
    assert "Traceback" not in done.stderr


def test_check_writes_what_it_found_for_machines(faulty, tmp_path):
    assert cxlbed("check", faulty, "--json", tmp_path / "found.json").returncode == 2
    (entry,) = json.loads((tmp_path / "found.json").read_text())["files"]
    assert entry["file"] == str(faulty)
    assert len(entry["problems"]) == 2


def test_check_holds_a_bed_against_this_machine(tmp_path):
    path = tmp_path / "huge.yaml"
    path.write_text(find("direct").read_text().replace("size: 1G", "size: 512G").replace("size: 4G", "size: 512G"))
    assert "are more memory than the machine has" in cxlbed("check", path).stderr

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_configs.bedfile import find, json_schema, load, parse, stock_names
from qemu_configs.errors import BedFileError
from qemu_configs.topology import Topology, format_size, parse_size


def problems_of(text):
    with pytest.raises(BedFileError) as caught:
        parse(text)
    return caught.value.problems


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [("512M", 512 << 20), ("4G", 4 << 30), ("1k", 1024), ("2TiB", 2 << 40), ("77", 77), (77, 77)],
)
def test_a_size_is_read_in_bytes_with_binary_suffixes(written, size_bytes):
    assert parse_size(written) == size_bytes


@pytest.mark.parametrize("written", ["", "M", "1.5G", "-1G", "1GB", "1 G", "4iB", "0x10"])
def test_a_size_that_could_be_read_in_two_ways_is_refused(written):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(written)


@given(st.integers(min_value=1, max_value=1 << 50))
def test_a_size_written_out_reads_back_as_itself(size_bytes):
    assert parse_size(format_size(size_bytes)) == size_bytes


def test_a_name_that_is_neither_stock_nor_file_lists_the_stock_names():
    with pytest.raises(
        BedFileError, match=r"neither a file nor a stock topology \(stock: direct, dynamic-capacity"
    ) as caught:
        load("nowhere.yaml")
    assert caught.value.exit_status == 2


def test_a_folder_is_no_bed_file(tmp_path):
    with pytest.raises(BedFileError, match="is a folder, not a bed file"):
        load(tmp_path)


def test_bytes_that_are_no_text_are_one_clear_problem(tmp_path):
    path = tmp_path / "bed.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(BedFileError, match=r"is no UTF-8 \(byte 0xff at 0; save it as UTF-8\)"):
        load(path)


def test_a_name_too_long_for_a_file_is_no_bed_file_in_our_words():
    with pytest.raises(BedFileError, match="is neither a file nor a stock topology"):
        load("a" * 5000)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: [unclosed", "line 1: is not YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\nb: :\n  - {", "line 2: is not YAML: mapping values are not allowed here"),
        ("", "bed file: holds nothing where keys are expected (start with name, devices, hosts)"),
        ("- a\n- b\n", "bed file: holds a list where keys are expected (start with name, devices, hosts)"),
        ("just words", "bed file: holds 'just words' where keys are expected (start with name, devices, hosts)"),
        (
            "name: x\n---\nname: y\n",
            "line 2: is not YAML: expected a single document in the stream, but found another document",
        ),
    ],
)
def test_what_is_not_yaml_is_named_with_its_line(text, problem):
    assert problems_of(text) == [problem]


def test_brackets_nested_without_end_are_refused_without_a_traceback():
    assert problems_of("[" * 5000)[0].startswith(("bed file: is not YAML", "line 1"))


def test_a_topology_survives_the_way_through_json():
    for stock in stock_names():
        topology = load(stock)
        assert Topology.model_validate_json(topology.model_dump_json()) == topology


def test_the_json_schema_knows_every_key_and_refuses_others():
    schema = json_schema()
    device = schema["$defs"]["Device"]
    sizes = {"size", "persistent_size", "lsa_size", "dc_size", "dc_regions"}
    assert set(device["properties"]) == {
        "name",
        "serial",
        "profile",
        "shared",
        "sparse",
        "plugged",
        "back_invalidate",
        *sizes,
    }
    assert device["additionalProperties"] is False
    assert schema["$defs"]["Window"]["properties"]["size"]["anyOf"][1]["pattern"].startswith("^([0-9]+)")
    json.dumps(schema)


def test_every_stock_topology_says_what_it_is():
    for stock in stock_names():
        topology = load(stock)
        assert topology.name == stock
        assert topology.description


def test_the_example_in_the_documentation_is_a_usable_bed():
    page = (Path(__file__).parents[3] / "docs" / "bed-file.md").read_text()
    assert parse(page.split("```yaml\n")[1].split("```")[0]).name == "small-pool"


_leaves = st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.floats() | st.text(max_size=6) | st.just("4G")
_nonsense = st.recursive(
    _leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


def _places(document, above=()):
    yield above
    steps = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for step, inner in steps:
        yield from _places(inner, (*above, step))


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(stock_names()), _nonsense)
def test_nonsense_anywhere_in_a_file_ends_in_a_bed_file_error_or_a_usable_bed(data, stock, nonsense):
    document = json.loads(json.dumps(yaml.safe_load(find(stock).read_text())))
    *above, last = data.draw(st.sampled_from([place for place in _places(document) if place]))
    place = document
    for step in above:
        place = place[step]
    place[last] = nonsense
    try:
        assert isinstance(parse(yaml.safe_dump(document)), Topology)
    except BedFileError as error:
        assert error.problems

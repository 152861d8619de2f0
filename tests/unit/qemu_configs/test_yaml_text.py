"""YAML of people's files: repeated keys are told, merges are none."""

import pytest

from qemu_configs.yaml_text import YamlError, read_yaml


def test_each_repeated_key_is_told_with_its_line_and_the_last_one_counts():
    document, problems = read_yaml("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert document == {"a": 3, "b": {"c": 2}}
    assert problems == [
        "line 3: key 'a' stands twice in one place (keep one)",
        "line 2: key 'c' stands twice in one place (keep one)",
    ]


def test_a_mapping_that_is_merged_elsewhere_before_it_is_built_itself_repeats_no_key():
    text = "base: &base {x: 0}\ndeep: {deeper: {deepest: &own {<<: *base, x: 1}}}\ncopy: {<<: *own}\n"
    document, problems = read_yaml(text)
    assert document["deep"]["deeper"]["deepest"] == {"x": 1}
    assert problems == []


@pytest.mark.parametrize(("text", "line"), [("a: [", 1), ("a: 1\nb: :\n  - {", 2), ("[" * 5000, None), ("!!int ''", 1)])
def test_a_flaw_is_told_with_its_line_where_yaml_names_one(text, line):
    with pytest.raises(YamlError, match="is not YAML") as caught:
        read_yaml(text)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("on", "on"),
        ("NO", "NO"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("=", "="),
        ("~", None),
        ("true", True),
        ("1e3", 1000),
        ("1.5E+3", 1500),
        ("1e-3", 0.001),
        ("1e30", 1e30),
        ("1_000", 1000),
        ("0x1f", 31),
        ("0o17", 15),
        ("0", 0),
        ("-7", -7),
    ],
)
def test_a_scalar_is_what_a_person_means_by_it(written, meant):
    document, problems = read_yaml(f"a: {written}\n")
    assert (document, problems) == ({"a": meant}, [])
    assert type(document["a"]) is type(meant)


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        ("012", "write 12, or 0o12 for octal, or '012' for text"),
        ("-0777", "write -777, or 0o777 for octal, or '-0777' for text"),
        ("09", "write 9, or '09' for text"),
        ("00", "write 0, or 0o0 for octal, or '00' for text"),
    ],
)
def test_a_leading_zero_is_refused_once_with_both_readings(written, fix):
    _, problems = read_yaml(f"a: &a {{b: {written}}}\nc: {{<<: *a}}\nd: *a\n")
    assert problems == [f"line 1: {written} starts with 0: octal to some readers of YAML, decimal to others ({fix})"]


def test_keys_are_names_whatever_they_look_like():
    assert read_yaml("on: 1\n12: 2\n~: 3\n")[0] == {"on": 1, "12": 2, "~": 3}


@pytest.mark.parametrize(
    "written", ["!!binary aGk=", "!!set {a}", "!!omap [a: 1]", "!!timestamp 2001-01-01", "!own 1", "!!pairs [a: 1]"]
)
def test_a_tag_that_no_file_has_a_use_for_is_refused_with_its_line(written):
    with pytest.raises(YamlError, match=f"line 2: is not YAML: tag {written.split()[0]} is not read here") as caught:
        read_yaml(f"a: 1\nb: {written}\n")
    assert caught.value.line == 2


def test_a_character_that_prints_nothing_is_told_with_its_line():
    with pytest.raises(YamlError) as caught:
        read_yaml("a: 1\nb: \x07\n")
    assert str(caught.value) == "line 2: is not YAML: it holds character 0x07, which prints nothing"

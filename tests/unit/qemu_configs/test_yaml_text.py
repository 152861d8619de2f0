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


@pytest.mark.parametrize(
    ("text", "line"), [("a: [", 1), ("a: 1\nb: :\n  - {", 2), ("[" * 5000, None), ("!!int ''", None)]
)
def test_a_flaw_is_told_with_its_line_where_yaml_names_one(text, line):
    with pytest.raises(YamlError, match="is not YAML") as caught:
        read_yaml(text)
    assert caught.value.line == line

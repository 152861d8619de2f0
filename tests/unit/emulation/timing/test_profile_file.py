"""Profile files that are broken on purpose: each is one InputError that names every finding, never a traceback."""

import json
import random
import subprocess
import sys
from dataclasses import fields

import pytest

from emulation.errors import InputError
from emulation.timing.profile import Profile, load_profile, parse_profile
from emulation.timing.profile_file import TIERS, json_schema
from emulation.timing.profile_folders import PROFILE_FOLDER, profile_names
from qemu_configs.yaml_text import MOST_CHARACTERS, shown

GOOD = (PROFILE_FOLDER / "cxl-switched-220.yaml").read_text()
LINES = {line.split(":")[0]: line for line in reversed(GOOD.splitlines())}  # the first of each key
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
MERGES = "m0: &m0 {k: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 30))
WHOLE = "op_ns={} must be a whole number of at least 0, at most 1000000000000"
RATE = "reader.read_bytes_per_ns={} must be a number above 0 (bytes per ns, which is GB/s), from 1e-06 to 1e+12"
CURVE = "must be a list of [load 0..1, factor >= 1, at most 1e+06], both rising, that starts at [0, 1]"
FIGURE = "must be {value: ..., source: ...}; where nobody published it, source: assumed"
SOURCE = "assumed: as arXiv 2511.20172 (Beluga) [coherence] gives for the same switch; second-hand"
UNCACHED = shown({"value": 166490, "source": SOURCE})
FRESH = shown({"clflush": {"value": 5980, "source": SOURCE}, "uncached": {"value": 166490, "source": SOURCE}})
UNKNOWN = "is an unknown key; known are name, tier, read_by, summary, read_latency_ns"


def with_line(key, line):
    """GOOD with its first line of that key replaced."""
    return GOOD.replace(LINES[key], line, 1)


def with_value(key, value):
    return with_line(key, f"{key}: {{value: {value}, source: x}}")


def problems_of(text):
    with pytest.raises(InputError) as caught:
        parse_profile(text, "f")
    assert caught.value.exit_status == 2
    lines = str(caught.value).splitlines()
    assert all(line.startswith("profile f: ") for line in lines)
    return [line.removeprefix("profile f: ") for line in lines]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (with_value("op_ns", "-1"), [WHOLE.format("-1")]),
        (with_value("op_ns", "2.0"), [WHOLE.format("2.0")]),
        (with_value("op_ns", "true"), [WHOLE.format("true")]),
        (with_value("op_ns", "null"), [WHOLE.format("null")]),
        (with_value("op_ns", "1e400"), [WHOLE.format("inf")]),
        (with_value("op_ns", "1.0e+400"), [WHOLE.format("inf")]),
        (with_value("op_ns", ".nan"), [WHOLE.format("nan")]),
        (with_value("op_ns", "1000000000001"), [WHOLE.format("1000000000001")]),
        (with_value("op_ns", "0x" + "f" * 5000), [WHOLE.format("<a whole number of 20000 bits>")]),
        (with_value("num_devices", "4097"), ["num_devices=4097 must be a whole number of at least 1, at most 4096"]),
        (with_value("  read_bytes_per_ns", "true"), [RATE.format("true")]),
        (with_value("  read_bytes_per_ns", ".nan"), [RATE.format("nan")]),
        (with_value("  read_bytes_per_ns", ".inf"), [RATE.format("inf")]),
        (with_value("  read_bytes_per_ns", "1.0e-308"), [RATE.format("1e-308")]),
        (with_value("  read_bytes_per_ns", "1" + "0" * 400), [RATE.format("<a whole number of 1329 bits>")]),
        (with_value("loaded_latency", "[[false, true]]"), [f"loaded_latency=[[false, true]] {CURVE}"]),
        (with_value("loaded_latency", "[[0, 1], [.nan, 2]]"), [f"loaded_latency=[[0, 1], [nan, 2]] {CURVE}"]),
        (with_value("loaded_latency", "[[0, 1], [1, .inf]]"), [f"loaded_latency=[[0, 1], [1, inf]] {CURVE}"]),
        (with_value("loaded_latency", "[[0, 1], [1.1, 2]]"), [f"loaded_latency=[[0, 1], [1.1, 2]] {CURVE}"]),
        (with_value("loaded_latency", "[[0, 1], [0, 2]]"), [f"loaded_latency=[[0, 1], [0, 2]] {CURVE}"]),
        (with_line("op_ns", "op_ns: 3"), [f"op_ns=3 {FIGURE}"]),
        (with_line("op_ns", "op_ns: {value: 3}"), [f"op_ns={{'value': 3}} {FIGURE}"]),
        (
            with_line("op_ns", "op_ns: {value: -1, source: [1]}"),
            [
                WHOLE.format("-1"),
                "op_ns.source=[1] must be text that says where the value is from; where nobody published it, source: assumed",
            ],
        ),
        (
            GOOD.replace("    clflush: {value: 5980,", "    clflush: {value: 5.98,"),
            ["coherence.fresh_read_ns.clflush=5.98 must be a whole number of at least 0, at most 1000000000000"],
        ),
        (
            GOOD.replace("  fresh_read_ns:", "  stale_read_ns:"),
            [
                f"coherence.stale_read_ns={FRESH} is an unknown key; known are num_bytes, publish_ns, fresh_read_ns",
                "coherence.fresh_read_ns is missing; give it",
            ],
        ),
        (
            GOOD.replace("    uncached: {value: 166490,", "    cached: {value: 166490,"),
            [
                f"coherence.fresh_read_ns.cached={UNCACHED} is an unknown key; known are clflush, uncached",
                "coherence.fresh_read_ns.uncached is missing; give it",
            ],
        ),
        (
            GOOD.partition("coherence:")[0] + "coherence: 3",
            ["coherence=3 must hold num_bytes and publish_ns and fresh_read_ns"],
        ),
        (with_line("tier", "tier: optane"), ["tier='optane' must be one of dram, numa, cxl, rdma"]),
        (with_line("tier", ""), ["tier is missing; give it"]),
        (
            with_value("op_ns", "0750"),
            [
                "line 11: 0750 starts with 0: octal to some readers of YAML, decimal to others "
                "(write 750, or 0o750 for octal, or '0750' for text)"
            ],
        ),
        (with_value("op_ns", "12:30"), [WHOLE.format("'12:30'")]),
        (with_line("name", "name: 3"), ["name=3 must be text of at most 10000 characters"]),
        (GOOD + "tier: cxl\n", ["line 36: key 'tier' stands twice in one place (keep one)"]),
        (
            with_line("op_ns", "op_ns: {value: 3, value: -4, source: x}"),
            ["line 11: key 'value' stands twice in one place (keep one)", WHOLE.format("-4")],
        ),
    ],
)
def test_each_finding_names_field_value_and_rule(text, problems):
    assert problems_of(text) == problems


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (GOOD + "colour: red\n", f"colour='red' {UNKNOWN}"),
        (GOOD + "3: red\n", f"3='red' {UNKNOWN}"),
        (GOOD + '"\\ud800": red\n', "line 36: is not YAML: holds half of a surrogate pair"),
        (with_line("  read_bytes_per_ns", "  7: 1"), "reader.7=1 is an unknown key; known are read_bytes_per_ns"),
        (with_line("  read_bytes_per_ns", '  "\\ud800": 1'), "line 15: is not YAML: holds half of a surrogate pair"),
        (with_line("reader", "reader: [1]\nx:"), "x={'read_bytes_per_ns': {'value': 16"),
        (GOOD + "x: " + "[" * 3000, "is not YAML that can be read: it nests too deeply"),
        (GOOD + "x: " + "[" * 300 + "]" * 300, "x=[[[[[...]]]]] is an unknown key"),
        (GOOD + "x: &x [*x]\n", "x=[[[[[...]]]]] is an unknown key"),
        (GOOD + "? &k [*k]\n: 3\n", "line 36: is not YAML: found unhashable key"),
        (
            with_value("op_ns", "9" * 5000),
            "line 11: is not YAML: '99999999",
        ),
        (with_value("op_ns", "!!bool x"), "line 11: is not YAML: 'x' is no bool"),
        (with_value("op_ns", "!!int ''"), "line 11: is not YAML: '' is no int"),
        (with_value("op_ns", "!!timestamp x"), "line 11: is not YAML: tag !!timestamp is not read"),
        (with_value("op_ns", "2001-99-99"), "op_ns='2001-99-99' must be a whole number"),
        (with_line("name", 'name: "\\UFFFFFFFF"'), "is not YAML that can be read: a character is none"),
        (
            with_value("op_ns", "!!python/object:os.system x"),
            "line 11: is not YAML: tag !!python/object:os.system is not read",
        ),
        (
            GOOD + "---\n" + GOOD,
            "line 36: is not YAML: expected a single document in the stream, but found another document",
        ),
        (GOOD + "#" * MOST_CHARACTERS, f"holds {MOST_CHARACTERS + len(GOOD)} characters, more than {MOST_CHARACTERS}"),
        ("- 1", "holds a list, needs keys: name, tier, read_by"),
        ("", "holds nothing, needs keys: name, tier, read_by"),
    ],
)
def test_what_can_hardly_be_read_is_told_too(text, start):
    assert problems_of(text)[0].startswith(start)


@pytest.mark.parametrize(
    "place", ["name: *a29\n", "op_ns: *a29\n", "op_ns: {value: *a29, source: x}\n", "reader: *a29\n"]
)
def test_aliases_that_stand_for_more_than_memory_holds_are_refused_in_few_words(place):
    text = BOMB + place
    assert len("\n".join(problems_of(text))) < 30_000
    assert len(problems_of(MERGES + place.replace("a29", "m29"))) > 30


def test_an_alias_and_a_merge_stay_allowed_and_a_merge_is_no_second_key():
    text = with_line("op_ns", "op_ns: {<<: &o {value: 3, source: x}, value: 4}")
    text = text.replace(LINES["request_ns"], "request_ns: {value: 5, source: &s said}").replace(
        LINES["floor_ns"], "floor_ns: {value: 0, source: x}"
    )
    profile = parse_profile(text.replace(LINES["num_devices"], "num_devices: {value: 2, source: *s}"), "f")
    assert (profile.op_ns, profile.sources["op_ns"], profile.sources["num_devices"]) == (4, "x", "said")


def test_a_file_that_is_no_text_is_named(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(GOOD.encode() + b"# \xff\n")
    with pytest.raises(InputError, match=r"bad\.yaml: 'utf-8' codec can't decode .*; name a text file in UTF-8"):
        load_profile(str(bad))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(InputError, match=r"folder\.yaml: Is a directory; name a file that can be read"):
        load_profile(str(tmp_path / "folder.yaml"))
    for name in ("x" * 5000 + ".yaml", "nul\0.yaml", "x" * 5000, "nul\0", "\ud800"):
        with pytest.raises(InputError):
            load_profile(name)


def test_a_value_in_an_error_is_cut_and_keeps_the_order_of_the_file():
    assert shown({"value": 3, "sauce": ["x"]}) == "{'value': 3, 'sauce': ['x']}"
    assert shown(dict.fromkeys(range(99), 1)).endswith("11: 1, ...}")
    assert len(shown(["x" * 1000] * 1000)) < 500


def test_the_schema_lists_each_key_and_what_a_figure_may_be():
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    keys = [field.name for field in fields(Profile) if field.name != "sources"]
    assert list(schema["properties"]) == keys
    assert schema["required"] == [key for key in keys if key not in ("subject", "coherence")]
    assert schema["properties"]["tier"]["enum"] == list(TIERS)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["NumDevicesFigure"]["properties"]["value"] == {
        "maximum": 4096, "minimum": 1, "title": "Value", "type": "integer",
    }  # fmt: skip


def test_names_are_had_without_pydantic():
    code = "import sys; from emulation.timing.profile_folders import profile_names; assert profile_names()"
    check = f"{code}; sys.exit('pydantic' in sys.modules or 'yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


ODD = (
    "0", "-1", "1.0e+308", "1.0e-308", ".nan", "-.inf", "9" * 30, "9" * 5000, "0x" + "f" * 5000, "true", "~", "''", "[]",
    "{}", "2001-01-01", "2001-99-01", "!!binary aGk=", "!!bool x", "!!int ''", "!!set {a, b}", "!!omap [a: 1]", "&a [*a]",
    "*x", "<<: {a: 1}", '"\\ud800"', "{value: 1, source: [1]}", "[0, 1, [2]]", "[" * 99, "\x00", "\u2028", "x: y", "- 1",
)  # fmt: skip


def mutated(rng, text):
    """A profile's text with a few characters, words or lines of another kind."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text))
        lines = text.split("\n")
        row = rng.randrange(len(lines))
        match rng.randrange(5):
            case 0:
                text = text[:at] + rng.choice(":{}[]&*!|>'\"\t\n#,-?%@\ud800\0é") + text[at + 1 :]
            case 1:
                text = text[:at] + rng.choice(ODD) + text[at + rng.randrange(9) :]
            case 2:
                lines[row] = lines[row].split(":")[0] + ": " + rng.choice(ODD)
                text = "\n".join(lines)
            case 3:
                key, _, rest = lines[row].partition("value: ")
                lines[row] = f"{key}value: {rng.choice(ODD)}, {rest.partition(', ')[2]}"
                text = "\n".join(lines)
            case 4:
                text = "\n".join([*lines[:row], rng.choice(lines), *lines[row:]])
    return text


def test_no_mutation_of_a_profile_ends_in_anything_but_a_profile_or_an_input_error():
    rng = random.Random(9)
    texts = [(PROFILE_FOLDER / f"{name}.yaml").read_text() for name in profile_names()]
    sound = 0
    for _ in range(120):
        try:
            profile = parse_profile(mutated(rng, rng.choice(texts)), "f")
        except InputError as error:
            assert len(str(error)) < 30_000
        else:
            sound += 1
            assert profile.tier in TIERS
            repr(profile).encode()
    assert 0 < sound < 60  # both kinds were seen


@pytest.mark.parametrize("written", ["1e3", "1E3", "1.0e+3", "1_000", "0x3e8", "0o1750"])
def test_a_figure_is_the_number_that_a_person_means(written):
    profile = parse_profile(
        with_value("  read_bytes_per_ns", written).replace(LINES["op_ns"], f"op_ns: {{value: {written}, source: x}}"),
        "f",
    )
    assert profile.reader.read_bytes_per_ns == profile.op_ns == 1000

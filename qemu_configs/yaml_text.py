"""YAML text to plain values, for files that people write: a flaw of the text is a YamlError; repeated keys and numbers
that readers of YAML take differently are told.

PyYAML reads YAML 1.1, in which `on` is true, 012 is ten, 1:30 is ninety and 1e3 is text. Here words are text, as in YAML
1.2's core schema; 1e3 is 1000; a number with a leading zero is refused. Knows PyYAML; knows no model and no file. `shown`
is how errors quote a value of such a text, whatever its size.
"""

import re
from reprlib import Repr
from typing import NoReturn

import yaml
from yaml.constructor import ConstructorError

from qemu_configs.errors import ConfigError

MOST_CHARACTERS = 1 << 20  # some ten seconds of PyYAML; a bed file or a profile is a few KB

_MOST_SHOWN = 400
_MOST_EXACT = 2**53  # up to here a float with a whole value is that whole number
_NULL = r"~|null|Null|NULL|"
_BOOL = r"true|True|TRUE|false|False|FALSE"
_INT = r"[-+]?[0-9]+(?:_[0-9]+)*|0x[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*|0o[0-7]+|0b[01]+(?:_[01]+)*"
_FLOAT = (
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_LEADING_ZERO = re.compile(r"([-+]?)0[0-9_]*[0-9]")
# What PyYAML's constructors raise beside YAMLError: `!!bool x`, `!!int ''`, `!!timestamp x`, month 99, "\UFFFFFFFF".
_FLAWS = (ValueError, LookupError, AttributeError, OverflowError)


class YamlError(ConfigError):
    """Text that is not YAML; `line` counts from 1 and is None where PyYAML names none."""

    def __init__(self, line: int | None, problem: str) -> None:
        self.line = line
        self.problem = problem
        super().__init__(f"line {line}: {problem}" if line else problem)


def read_yaml(text: str) -> tuple[object, list[str]]:
    """The one document of a YAML text, and a sentence for each key that stands twice in one place (the last one counts).
    Raises YamlError for all that is not YAML, or is longer than MOST_CHARACTERS."""
    if len(text) > MOST_CHARACTERS:
        raise YamlError(None, f"holds {len(text)} characters, more than {MOST_CHARACTERS} (split it or shorten it)")
    try:
        loader = _PlainLoader(text)
        return loader.get_single_data(), loader.problems
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise YamlError(line, f"is not YAML: {_flaw(exc)}") from None
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise YamlError(line, f"is not YAML: it holds character {exc.character:#04x}, which prints nothing") from None
    except RecursionError:
        raise YamlError(None, "is not YAML that can be read: it nests too deeply") from None
    except yaml.YAMLError as exc:
        raise YamlError(None, f"is not YAML: {exc}") from None
    except _FLAWS as exc:
        raise YamlError(None, f"is not YAML that can be read: a character is none ({exc})") from None


def _flaw(error: yaml.MarkedYAMLError) -> str:
    """What is wrong, in PyYAML's words; where it says `but found`, with what it expected."""
    problem = error.problem or error.context or ""
    return f"{error.context}, {problem}" if problem.startswith("but ") else problem


class _PlainLoader(yaml.SafeLoader):
    """Reads scalars as the module's head says. YAML keeps the last of two equal keys in silence; this one notes each, and
    each number with a leading zero, so that they can be reported."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.problems: list[str] = []
        self._seen: set[yaml.MappingNode] = set()

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """The value of a node. Raises ConstructorError, with the place, for one that is not of its type."""
        try:
            return super().construct_object(node, deep)
        except _FLAWS:
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            raise ConstructorError(None, None, f"{shown(node.value)} is no {kind}", node.start_mark) from None

    def construct_undefined(self, node: yaml.Node) -> NoReturn:
        """Refuse a tag that no bed file and no profile has a use for, such as !!binary, !!set or a program's own."""
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise ConstructorError(
            None, None, f"tag {tag} is not read here (write text, numbers, lists and keys)", node.start_mark
        )

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        """The text of a scalar. Raises ConstructorError for one that no file can hold."""
        text: str = super().construct_scalar(node)
        if _SURROGATE.search(text):
            raise ConstructorError(None, None, "holds half of a surrogate pair, which is no character", node.start_mark)
        return text

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        """Python's own reading of decimal, 0x, 0o and 0b; a leading zero is noted, for it is octal to YAML 1.1 alone."""
        text = self.construct_scalar(node)
        match = _LEADING_ZERO.fullmatch(text)
        if match is None:
            return int(text, 0)
        digits = text.lstrip("+-0_") or "0"
        octal = "" if set(digits) & {"8", "9"} else f", or 0o{digits} for octal"
        self.problems.append(
            f"line {node.start_mark.line + 1}: {text} starts with 0: octal to some readers of YAML, decimal to others "
            f"(write {match[1]}{digits}{octal}, or '{text}' for text)"
        )
        return int(match[1] + digits)

    def construct_number(self, node: yaml.ScalarNode) -> float:
        """A float; a whole value that was written with an exponent (1e3) is a whole number."""
        text = self.construct_scalar(node).replace("_", "").lower()
        value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
        return int(value) if "e" in text and value.is_integer() and abs(value) <= _MOST_EXACT else value

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Called for each mapping before its keys are joined by those of a merge (`<<`), and again where others merge it."""
        if node not in self._seen:
            self._seen.add(node)
            self._note_repeated_keys(node)
            node.value = [(_as_text(key), value) for key, value in node.value]
        super().flatten_mapping(node)

    def _note_repeated_keys(self, node: yaml.MappingNode) -> None:
        names: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in names:
                line = key.start_mark.line + 1
                self.problems.append(f"line {line}: key {shown(key.value)} stands twice in one place (keep one)")
            names.add(key.value)


def _as_text(key: yaml.Node) -> yaml.Node:
    """Keys are names, whatever they look like; but `<<` merges."""
    if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
        return key
    return yaml.ScalarNode("tag:yaml.org,2002:str", key.value, key.start_mark, key.end_mark, key.style)


_PlainLoader.yaml_implicit_resolvers = {}  # those of YAML 1.1 are the base class's
for _tag, _pattern, _first_characters in (
    ("null", _NULL, ["~", "n", "N", ""]),
    ("bool", _BOOL, list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", "<<", ["<"]),
):
    _PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first_characters)
_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_whole_number)
for _tag in ("binary", "timestamp", "omap", "pairs", "set"):
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _PlainLoader.construct_undefined)
_PlainLoader.add_constructor(None, _PlainLoader.construct_undefined)
_PlainLoader.add_constructor("tag:yaml.org,2002:float", _PlainLoader.construct_number)


def shown(value: object) -> str:
    """repr, cut: aliases (`*a`) let a short text hold a value that would take an age to write out."""
    text = _CutRepr().repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


class _CutRepr(Repr):
    """Lists, texts and depth each have a limit."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxdict = self.maxset = self.maxtuple = 12
        self.maxstring = self.maxlong = self.maxother = 200

    def repr_dict(self, value: dict[object, object], level: int) -> str:
        """In the order of the file; reprlib sorts."""
        if level <= 0:
            return "{...}" if value else "{}"
        pieces = [f"{self.repr1(key, level - 1)}: {self.repr1(item, level - 1)}" for key, item in _first(value, self)]
        return "{" + ", ".join([*pieces, "..."] if len(value) > self.maxdict else pieces) + "}"

    def repr_bool(self, value: bool, level: int) -> str:
        """As the file has it: nobody wrote True."""
        return str(value).lower()

    def repr_NoneType(self, value: None, level: int) -> str:  # noqa: N802 (reprlib finds it by the type's name)
        """As the file has it."""
        return "null"

    def repr_int(self, value: int, level: int) -> str:
        """A number of thousands of digits is not written out: Python refuses it."""
        return f"<a whole number of {value.bit_length()} bits>" if value.bit_length() > 256 else repr(value)


def _first(value: dict[object, object], limits: Repr) -> list[tuple[object, object]]:
    return [item for item, _ in zip(value.items(), range(limits.maxdict), strict=False)]

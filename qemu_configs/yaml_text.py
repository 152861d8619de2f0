"""YAML text to plain values, for files that people write: a flaw of the text is a YamlError, and repeated keys are told.

Knows PyYAML; knows no model and no file. `shown` is how errors quote a value of such a text, whatever its size.
"""

from reprlib import Repr

import yaml

from qemu_configs.errors import ConfigError

MOST_CHARACTERS = 1 << 20  # some ten seconds of PyYAML; a bed file or a profile is a few KB

_MOST_SHOWN = 400
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
        loader = _UniqueKeyLoader(text)
        return loader.get_single_data(), loader.problems
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise YamlError(line, f"is not YAML: {exc.problem or exc.context}") from None
    except RecursionError:
        raise YamlError(None, "is not YAML that can be read: it nests too deeply") from None
    except yaml.YAMLError as exc:
        raise YamlError(None, f"is not YAML: {exc}") from None
    except _FLAWS as exc:
        raise YamlError(None, f"is not YAML that can be read: a value is not of its type ({exc})") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys in silence; this one notes each so that it can be reported."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.problems: list[str] = []
        self._seen: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Called for each mapping before its keys are joined by those of a merge (`<<`), and again where others merge it."""
        if node not in self._seen:
            self._seen.add(node)
            self._note_repeated_keys(node)
        super().flatten_mapping(node)

    def _note_repeated_keys(self, node: yaml.MappingNode) -> None:
        names: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in names:
                line = key.start_mark.line + 1
                self.problems.append(f"line {line}: key {shown(key.value)} stands twice in one place (keep one)")
            names.add(key.value)


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

    def repr_int(self, value: int, level: int) -> str:
        """A number of thousands of digits is not written out: Python refuses it."""
        return f"<a whole number of {value.bit_length()} bits>" if value.bit_length() > 256 else repr(value)


def _first(value: dict[object, object], limits: Repr) -> list[tuple[object, object]]:
    return [item for item, _ in zip(value.items(), range(limits.maxdict), strict=False)]

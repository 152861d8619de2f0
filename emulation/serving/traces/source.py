"""A trace's file as text, and refusals that name file, place and field. Knows bytes and words; no format.

What a file may hold that is none of a trace's: other encodings, packed files, NaN, numbers and nesting without end, a key twice."""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from emulation.errors import InputError
from emulation.serving.traces.entry import MOST_HASH_ID, MOST_MS, MOST_TOKENS

MOST_BYTES = 1 << 30
PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_SHOWN = 60  # characters of a value that an error shows

JsonObject = dict[str, Any]


class _TwiceError(ValueError):
    """A key of an object stands twice."""


@dataclass(frozen=True)
class TraceText:
    """The text of a trace. unit: what `place` counts in refusals, a line or an element."""

    path: Path
    text: str
    unit: str = "line"

    @classmethod
    def read(cls, path: Path) -> "TraceText":
        """Raises InputError for a file that cannot be read, or holds no text."""
        content = _content(path)
        for magic, name in PACKED.items():
            if content.startswith(magic):
                raise InputError(f"trace {path}: is packed ({name}); unpack it first")
        try:
            return cls(path, content.decode("utf-8-sig"))
        except UnicodeDecodeError as exc:
            line = content.count(b"\n", 0, exc.start) + 1
            raise InputError(
                f"trace {path}, line {line}: byte {content[exc.start]:#04x} is no UTF-8; save the trace as UTF-8"
            ) from exc

    @cached_property
    def has_truths(self) -> bool:
        """Whether `true` or `false` stands anywhere, which Python takes for numbers."""
        return "true" in self.text or "false" in self.text

    def lines(self) -> Iterator[tuple[int, str]]:
        """Numbered lines, without those that are blank or begin with #."""
        for number, line in enumerate(self.text.split("\n"), 1):
            if (stripped := line.strip()) and stripped[0] != "#":
                yield number, stripped

    def refusal(self, place: int, rule: str) -> InputError:
        """The error of one place."""
        return InputError(f"trace {self.path}, {self.unit} {place}: {rule}")

    def decode(self, place: int, text: str) -> Any:
        """The JSON value of `text`. Raises InputError in our words."""
        try:
            value, end = _DECODER.raw_decode(text)
            if end == len(text):
                return value
            raise json.JSONDecodeError("more", text, end)
        except json.JSONDecodeError as exc:
            raise self.refusal(place, f"no JSON from character {exc.pos + 1} on; mend or remove it") from exc
        except _TwiceError as exc:
            raise self.refusal(place, f"{exc} stands twice in one object; keep one") from exc
        except RecursionError as exc:
            raise self.refusal(place, "is nested too deeply for a trace") from exc
        except ValueError as exc:  # Python's limit on the digits of an int
            raise self.refusal(place, "holds a number of several thousand digits") from exc

    def json_lines(self) -> Iterator[tuple[int, JsonObject]]:
        """Numbered JSON objects, one per line. Raises InputError."""
        for number, line in self.lines():
            fields = self.decode(number, line)
            if type(fields) is not dict:
                raise self.refusal(number, f"{shown(fields)} is no JSON object; each line must be one")
            yield number, fields

    def tokens(self, place: int, fields: JsonObject, name: str, least: int = 1) -> int:
        """A number of tokens. Raises InputError naming the field."""
        value = fields.get(name)
        if type(value) is int and least <= value <= MOST_TOKENS:
            return value
        raise self.refusal(place, _off(fields, name, f"a whole number from {least} to {MOST_TOKENS}"))

    def time(self, place: int, fields: JsonObject, name: str, per_ms: float = 1.0) -> float | None:
        """A time or span in ms, `per_ms` of the field's units each; None where it is not recorded. Raises InputError."""
        value = fields.get(name)
        if value is None:
            return None
        if type(value) in (int, float) and 0 <= value <= MOST_MS * per_ms:
            return float(value / per_ms)
        unit = {1.0: "ms", 1e-3: "s", 1e6: "ns"}[per_ms]
        raise self.refusal(place, _off(fields, name, f"a number of {unit} from 0 to {MOST_MS * per_ms:.0e}"))

    def hash_ids(self, place: int, fields: JsonObject, name: str = "hash_ids") -> tuple[int, ...] | None:
        """Whole numbers, one per block; None where they are not recorded. Raises InputError."""
        ids = fields.get(name)
        if ids is None:
            return None
        if type(ids) is not list:
            raise self.refusal(place, _off(fields, name, "a list of whole numbers"))
        try:
            array("Q", ids)  # the fastest way to see that all are whole numbers of 64 bits, or true or false
            if not self.has_truths or bool not in map(type, ids):
                return tuple(ids)
        except (TypeError, OverflowError):
            pass
        wrong = next(each for each in ids if type(each) is not int or not 0 <= each <= MOST_HASH_ID)
        raise self.refusal(place, f"{name}: {shown(wrong)} must be a whole number from 0 to {MOST_HASH_ID}")

    def session(self, place: int, fields: JsonObject, name: str) -> str | int | None:
        """The name of a session; None where there is none. Raises InputError."""
        value = fields.get(name)
        if value is None or type(value) in (str, int):
            return value
        raise self.refusal(place, _off(fields, name, "text or a whole number"))


def shown(value: object) -> str:
    """A value in an error: of limited length, and in ASCII, as a file may hold what no terminal prints."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _off(fields: JsonObject, name: str, rule: str) -> str:
    value = fields.get(name)
    if value is None:
        return f"{name} is missing; it must be {rule}"
    return f"{name}={shown(value)} must be {rule}"


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():
            what = "is no file" if path.exists() else "there is no such file"
            raise InputError(f"trace {path}: {what}; name one that can be read")
        if (size_bytes := path.stat().st_size) > MOST_BYTES:
            raise InputError(f"trace {path}: size_bytes={size_bytes} exceeds {MOST_BYTES}; replay a part of it")
        return path.read_bytes()
    except OSError as exc:
        raise InputError(f"trace {path}: cannot be read ({exc.strerror}); name a file that can") from exc


def _once(pairs: list[tuple[str, Any]]) -> JsonObject:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(shown(next(name for name in names if names.count(name) > 1)))
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_once)

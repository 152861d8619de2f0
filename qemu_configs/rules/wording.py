"""Words and checks that rules of every kind share. Knows names, sizes and lists, no topology."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from qemu_configs.topology import MIB, NAME_PATTERN

CAPACITY_STEP_BYTES = 256 * MIB  # CXL 3.0 section 9.14.1.3; QEMU's CXL_CAPACITY_MULTIPLIER


class Named(Protocol):
    """Anything of a bed file that has a name."""

    @property
    def name(self) -> str: ...


_Part = TypeVar("_Part", bound=Named)


def name_problems(owner: str, field: str, parts: Iterable[_Part]) -> Iterator[str]:
    """Names used twice in a list, and those that are no names."""
    prefix = f"{owner}: " if owner else ""
    listed = list(parts)
    for _, second in equal_pairs(listed, lambda part: part.name):
        yield f"{prefix}{field}: name='{second.name}' is used twice (give each its own)"
    for part in listed:
        yield from name_problem(f"{prefix}{field}", part.name)


def name_problem(owner: str, name: str) -> Iterator[str]:
    """A name that QEMU, libvirt or the file system would not take."""
    if not re.fullmatch(NAME_PATTERN, name):
        yield (
            f"{owner}: name={name!r} is not a name for QEMU, libvirt and files alike "
            "(a small letter, then up to 31 small letters, digits and dashes)"
        )


def equal_pairs(parts: Iterable[_Part], key: Callable[[_Part], object]) -> Iterator[tuple[_Part, _Part]]:
    """Each part whose key an earlier one already has, with that earlier one; 0 is no key."""
    first_with: dict[object, _Part] = {}
    for part in parts:
        value = key(part)
        if value in first_with and value != 0:
            yield first_with[value], part
        first_with.setdefault(value, part)


def capacity_problem(owner: str, field: str, size_bytes: int | None) -> Iterator[str]:
    """A size off the step of CXL capacity."""
    prefix = f"{owner}: " if owner else ""
    if size_bytes is not None and size_bytes % CAPACITY_STEP_BYTES:
        yield f"{prefix}{field}={size_bytes} is not a multiple of 256 MiB (next: {round_up(size_bytes)})"


def round_up(size_bytes: int, step_bytes: int = CAPACITY_STEP_BYTES) -> int:
    """The next multiple of a step, or the size if it is one."""
    return -(-size_bytes // step_bytes) * step_bytes


def choices(names: Iterable[str]) -> str:
    """What may stand where a name did not resolve."""
    listed = ", ".join(f"'{name}'" for name in names)
    return f"known: {listed}" if listed else "none is defined"

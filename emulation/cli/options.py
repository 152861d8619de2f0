"""Options that several verbs take, and lists of whole numbers in them. Knows words, no verb."""

import re
from pathlib import Path
from typing import Annotated

import typer

from emulation.errors import InputError

UriOption = Annotated[str, typer.Option("--uri", help="'embedded' (no daemon), or any libvirt URI.")]
AcceleratorOption = Annotated[str, typer.Option("--accelerator", help="auto, kvm or tcg. auto tries KVM first.")]
EmulatorOption = Annotated[
    str | None,
    typer.Option(
        "--emulator",
        help="auto, bundled (cxlbed's own QEMU), system (the machine's) or a path; CXLBED_EMULATOR says so too. "
        "auto takes the machine's from 11.1 on.",
    ),
]
MemoryOption = Annotated[Path, typer.Option("--memory-folder", help="Where the backing files of shared devices go.")]
HostOption = Annotated[str | None, typer.Option("--host", help="Which host; without it, the first.")]

FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20}
MOST = 10**9  # above whatever is counted here
_WORD = re.compile(r"([-+]?[0-9]{1,30})([KMkm]?)", re.ASCII)  # int() takes digits of any script, and 1_0


def whole_numbers(owner: str, option: str, text: str) -> tuple[int, ...]:
    """Whole numbers from 1 to MOST of a comma-separated list, each once; K and M stand for 1024 and 1024^2. Raises InputError."""
    try:
        values = tuple(dict.fromkeys(_number(word.strip()) for word in text.split(",")))
    except ValueError as exc:
        raise InputError(f"{owner}: {option}={text!r} must be whole numbers, comma-separated, as in 16K,32K") from exc
    if min(values) < 1:
        raise InputError(f"{owner}: {option}={text!r} must be at least 1")
    if max(values) > MOST:
        raise InputError(f"{owner}: {option}={text!r} must be at most {MOST}")
    return values


def _number(word: str) -> int:
    match = _WORD.fullmatch(word)
    if match is None:
        raise ValueError(word)
    return int(match[1]) * FACTORS[match[2].upper()]

"""Options that several verbs take, and lists of whole numbers in them. Knows words, no verb."""

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

FACTORS = {"K": 1 << 10, "M": 1 << 20}


def whole_numbers(owner: str, option: str, text: str) -> tuple[int, ...]:
    """Whole numbers above 0 of a comma-separated list, each once; K and M stand for 1024 and 1024^2. Raises InputError."""
    try:
        values = tuple(dict.fromkeys(_number(word.strip()) for word in text.split(",")))
    except ValueError as exc:
        raise InputError(f"{owner}: {option}={text!r} must be whole numbers, comma-separated, as in 16K,32K") from exc
    if min(values) < 1:
        raise InputError(f"{owner}: {option}={text!r} must be at least 1")
    return values


def _number(word: str) -> int:
    factor = FACTORS.get(word[-1:].upper(), 1)
    return int(word[:-1] if factor > 1 else word) * factor

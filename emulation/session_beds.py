"""The beds of one pytest run: one kept per topology, fresh ones on demand, all of them ended. Knows beds; no fixtures.

Apart from emulation.pytest_plugin, so that a run that boots nothing loads none of this.
"""

import os
import secrets
import shutil
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from emulation.machines.bed import Bed, down, up
from emulation.machines.emulator import own
from emulation.machines.emulator.choice import VARIABLE, system
from emulation.machines.launch import Options
from emulation.machines.this_machine import this_machine
from guest.image.cache import list_images
from guest.image.recipe import STOCK
from qemu_configs import bedfile


class SessionBeds:
    """Boots beds by topology name; a context manager that ends every one of them on leaving."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._kept: dict[str, Bed] = {}
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.close()

    def get(self, name: str, fresh: bool) -> Bed:
        """The bed of topology `name`, a stock one or a file: a new one where `fresh` holds, else the one that is kept."""
        if fresh:
            return self._boot(name)
        if name not in self._kept:
            self._kept[name] = self._boot(name)
        return self._kept[name]

    def _boot(self, name: str) -> Bed:
        topology = bedfile.load(name, this_machine())
        bed_name = f"t-{topology.name[:16]}-{secrets.token_hex(4)}"
        self._ending.callback(down, bed_name, say)
        return up(topology, bed_name, self._options, say)


def missing_tool() -> str | None:
    """What a bed cannot do without and this machine lacks; None where all is there."""
    has_builder = shutil.which("mmdebstrap") is not None
    if os.environ.get(VARIABLE) == "system" and system("asked for") is None:
        return f"{own.PROGRAM} is not in PATH ({VARIABLE}=system asks for it)"
    if own.held() is None and not has_builder and system("there is no other") is None:
        return f"no {own.PROGRAM} in PATH or in the cache, and mmdebstrap is missing to build one"
    if not any(image.hash == STOCK.hash for image in list_images()) and not has_builder:
        return "no guest image in the cache, and mmdebstrap is missing to build one"
    return None


def skips_are_failures() -> bool:
    """Whether this run, CI's, may not skip."""
    return bool(os.environ.get("CXLBED_NO_SKIPS"))


def say(text: str) -> None:
    """Show what is being done among the test's output."""
    print(f"cxlbed: {text}", flush=True)  # noqa: T201

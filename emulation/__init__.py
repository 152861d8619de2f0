"""The testbed: machines, modelled time, store wrappers, the serving simulation and the command `cxlbed`.

This is its public surface in Python, loaded as it is used: importing the package alone costs nothing.

    import emulation

    topology = emulation.load("shared-pool", emulation.this_machine())
    with emulation.booted(topology, "mine", emulation.Options(), print) as bed, bed.session("a") as session:
        session.run("cxl list")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emulation.errors import CxlbedError, InputError, MachineError
    from emulation.machines.bed import Bed, booted, down, down_all, find, status, up
    from emulation.machines.hosts import BedStatus, HostStatus
    from emulation.machines.launch import LaunchError, Options
    from emulation.machines.promise import PromiseError
    from emulation.machines.this_machine import this_machine
    from qemu_configs.bedfile import load, stock_names

__all__ = [
    "Bed",
    "BedStatus",
    "CxlbedError",
    "HostStatus",
    "InputError",
    "LaunchError",
    "MachineError",
    "Options",
    "PromiseError",
    "booted",
    "down",
    "down_all",
    "find",
    "load",
    "status",
    "stock_names",
    "this_machine",
    "up",
]

_HOMES = {
    "emulation.errors": ("CxlbedError", "InputError", "MachineError"),
    "emulation.machines.bed": ("Bed", "booted", "down", "down_all", "find", "status", "up"),
    "emulation.machines.hosts": ("BedStatus", "HostStatus"),
    "emulation.machines.launch": ("LaunchError", "Options"),
    "emulation.machines.promise": ("PromiseError",),
    "emulation.machines.this_machine": ("this_machine",),
    "qemu_configs.bedfile": ("load", "stock_names"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'emulation' has no attribute '{name}' (public: {', '.join(__all__)})")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

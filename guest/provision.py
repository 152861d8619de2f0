"""What is done over an SSH session to make a guest what its bed file says: regions, DAX modes, and what it then shows.

Knows the guest's commands; no libvirt, no bed, no bed file: its caller says what to make in plain values.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guest import inventory
from guest.inventory import Inventory
from guest.session import Session

SCRIPT = Path(__file__).parent / "provision.sh"


@dataclass(frozen=True)
class RegionOrder:
    """A region to make. window: number of the root decoder it comes to lie in (decoder0.N); serials: its devices in the
    order of interleaving; mode: devdax, system-ram or pmem."""

    name: str
    window: int
    size_bytes: int
    granularity_bytes: int
    mode: str
    serials: tuple[int, ...]


def provision(session: Session, serials: Sequence[int], orders: Sequence[RegionOrder]) -> Inventory:
    """Wait for the devices with these serials, then make the regions in the order given. Returns all that the guest then
    shows, which is less where a device never came. Raises CommandError where a step fails."""
    persistent = ["load_pmem"] if any(order.mode == "pmem" for order in orders) else []
    wait = f"wait_for_serials {' '.join(map(hex, serials))} || {{ show; exit; }}"
    return _run_script(session, [*persistent, wait, *map(_make_region, orders), "show"], "provisioning")


def remove(session: Session, serial: int, regions: Sequence[str]) -> None:
    """Have the guest let go of a device: end the use of the kernel's `regions` over it, then of the device itself. What was in
    volatile ones is lost. Raises CommandError where a step fails: memory that is in use stays."""
    calls = [*(shlex.join(["remove_region", region]) for region in regions), f"remove_memdev {serial:#x}"]
    session.run(f"exec sh -c {shlex.quote(chr(10).join([SCRIPT.read_text(), *calls]))}", name="removing a device")


def inspect(session: Session) -> Inventory:
    """What the guest shows now."""
    return _run_script(session, ["show"], "cxl list, daxctl list, sysfs")


def _make_region(order: RegionOrder) -> str:
    figures = (str(order.granularity_bytes), str(order.size_bytes))
    return shlex.join(
        ["make_region", order.name, f"decoder0.{order.window}", *figures, order.mode, *map(hex, order.serials)]
    )


def _run_script(session: Session, calls: list[str], name: str) -> Inventory:
    script = "\n".join([SCRIPT.read_text(), *calls])
    return inventory.parse(session.run(f"exec sh -c {shlex.quote(script)}", name=name).text)

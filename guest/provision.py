"""What is done over an SSH session to make a guest what its bed file says: regions, DAX modes, and what it then shows.

Knows the guest's commands; no libvirt, no bed.
"""

import shlex
from pathlib import Path
from typing import Any

from guest import inventory
from guest.inventory import Inventory, Picture
from guest.session import Session

SCRIPT = Path(__file__).parent / "provision.sh"


def provision(session: Session, picture: Picture) -> Inventory:
    """Create the regions that `picture` promises, in its order, in the modes that it says. Returns all that the guest then
    shows. Raises CommandError where a step fails."""
    serials = " ".join(hex(memdev["serial"]) for memdev in picture["memdevs"])
    calls = [f"wait_for_serials {serials} || {{ show; exit; }}"]
    decoders = {window["name"]: f"decoder0.{number}" for number, window in enumerate(picture["windows"])}
    calls += [_make_region(region, decoders[region["window"]]) for region in picture["regions"]]
    return _run_script(session, [*calls, "show"], "provisioning")


def inspect(session: Session) -> Inventory:
    """What the guest shows now."""
    return _run_script(session, ["show"], "cxl list, daxctl list, sysfs")


def _make_region(region: dict[str, Any], decoder: str) -> str:
    serials = (hex(serial) for serial in region["serials"])
    sizes = (str(region["granularity_bytes"]), str(region["size_bytes"]))
    return shlex.join(["make_region", region["name"], decoder, *sizes, region["mode"], *serials])


def _run_script(session: Session, calls: list[str], name: str) -> Inventory:
    script = "\n".join([SCRIPT.read_text(), *calls])
    return inventory.parse(session.run(f"exec sh -c {shlex.quote(script)}", name=name).text)

"""Opening a store on this host by its name. The one place that asks whether the host is a guest of QEMU."""

import re
from pathlib import Path
from typing import Unpack

from sac_runtime.memory.mapped import MappedStore
from sac_runtime.memory.spec import StoreKind, StoreSpec
from sac_runtime.memory.store import StoreOptions
from sac_runtime.native import Copy
from sac_runtime.rows.layout import KvLayout

VENDOR_FILE = Path("/sys/class/dmi/id/sys_vendor")
MACHINE_FILE = Path("/sys/class/dmi/id/product_version")  # QEMU's machine and its version: pc-q35-11.1
DAX_DEVICES = Path("/sys/bus/dax/devices")
DIRECT_MAP_QEMU = (11, 1)


def inside_qemu() -> bool:
    """Whether this machine is a guest of QEMU, by its DMI: its CXL memory is emulated, and its wall clock is no latency."""
    return VENDOR_FILE.exists() and VENDOR_FILE.read_text().strip() == "QEMU"


def is_mmio(path: str) -> bool:
    """Whether the memory of a DAX device is emulated access by access, as QEMU's CXL memory is before 11.1, and from then on where
    its region is interleaved. What cannot be told counts as emulated: narrow copies are right everywhere."""
    if not inside_qemu():
        return False
    machine = re.fullmatch(r"pc-\w+-(\d+)\.(\d+)", MACHINE_FILE.read_text().strip() if MACHINE_FILE.exists() else "")
    if machine is None or (int(machine[1]), int(machine[2])) < DIRECT_MAP_QEMU:
        return True
    folder = (DAX_DEVICES / Path(path).name).resolve()
    ways = next(
        (region / "interleave_ways" for region in folder.parents if (region / "interleave_ways").exists()), None
    )
    return ways is None or ways.read_text().strip() != "1"


def open_store(
    spec: StoreSpec,
    layout: KvLayout,
    num_rows: int,
    metadata_bytes: int = 0,
    **options: Unpack[StoreOptions],
) -> MappedStore:
    """Map the store that `spec` names, with rows of `layout`; a device is mapped whole, however many rows it is to hold.

    Rows of a DAX device that QEMU emulates access by access are copied by narrow loads and stores: it takes nothing wider.
    Raises StoreError, GeometryError."""
    path = spec.where
    match spec.kind:
        case StoreKind.ANONYMOUS:
            return MappedStore.anonymous(layout, num_rows, metadata_bytes=metadata_bytes, **options)
        case StoreKind.SHARED:
            return MappedStore.shared(path, layout=layout, num_rows=num_rows, metadata_bytes=metadata_bytes, **options)
        case StoreKind.NUMA:
            return MappedStore.numa(int(path), layout, num_rows, metadata_bytes=metadata_bytes, **options)
        case StoreKind.DAX:
            options.setdefault("copy", Copy.NARROW if is_mmio(path) else None)
            return MappedStore.dax(
                path,
                layout=layout,
                num_rows=num_rows,
                metadata_bytes=metadata_bytes,
                **options,
            )

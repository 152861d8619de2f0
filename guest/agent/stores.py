"""Opening a store on this host by its name. The one place that asks whether the host is a guest of QEMU."""

from pathlib import Path
from typing import Unpack

from sac_runtime.memory.mapped import MappedStore
from sac_runtime.memory.spec import StoreKind, StoreSpec
from sac_runtime.memory.store import StoreOptions
from sac_runtime.native import Copy
from sac_runtime.rows.layout import KvLayout

VENDOR_FILE = Path("/sys/class/dmi/id/sys_vendor")


def inside_qemu() -> bool:
    """Whether this machine is a guest of QEMU, by its DMI: its CXL memory is emulated, and its wall clock is no latency."""
    return VENDOR_FILE.exists() and VENDOR_FILE.read_text().strip() == "QEMU"


def open_store(
    spec: StoreSpec,
    layout: KvLayout,
    num_rows: int,
    metadata_bytes: int = 0,
    **options: Unpack[StoreOptions],
) -> MappedStore:
    """Map the store that `spec` names, with rows of `layout`; a device is mapped whole, however many rows it is to hold.

    Rows of a DAX device in a guest of QEMU are copied by narrow loads and stores: its emulated memory takes nothing wider.
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
            options.setdefault("copy", Copy.NARROW if inside_qemu() else None)
            return MappedStore.dax(
                path,
                layout=layout,
                num_rows=num_rows,
                metadata_bytes=metadata_bytes,
                **options,
            )

"""Names of stores: what people write and records keep. The one parser and printer; knows names, and opens nothing."""

from dataclasses import dataclass
from enum import StrEnum

from sac_runtime.errors import StoreNameError

STORE_NAMES = "anonymous, shared:PATH, dax:PATH or numa:NODE"


class StoreKind(StrEnum):
    """What memory a store maps."""

    ANONYMOUS = "anonymous"  # this process's own, wherever the kernel puts it
    SHARED = "shared"  # a file that several processes map
    DAX = "dax"  # a device-DAX node: CXL or persistent memory
    NUMA = "numa"  # this process's own, bound to one NUMA node


@dataclass(frozen=True)
class StoreSpec:
    """The name of a store, such as `dax:/dev/dax0.0` or `numa:1`. where: a path, a node's number, or nothing.

    str() gives the name, and parse() the spec back. Raises StoreNameError for a name that no store has."""

    kind: StoreKind
    where: str = ""

    def __post_init__(self) -> None:
        if not _fits(self.kind, self.where):
            raise _name_error(str(self))

    @classmethod
    def parse(cls, name: str) -> "StoreSpec":
        """The spec that `name` stands for. Raises StoreNameError."""
        kind, colon, where = name.partition(":")
        if kind not in list(StoreKind) or bool(colon) != bool(where) or not _fits(StoreKind(kind), where):
            raise _name_error(name)
        return cls(StoreKind(kind), where)

    @classmethod
    def dax(cls, path: str) -> "StoreSpec":
        return cls(StoreKind.DAX, path)

    @classmethod
    def numa(cls, node: int) -> "StoreSpec":
        return cls(StoreKind.NUMA, str(node))

    @property
    def is_private(self) -> bool:
        """Whether the memory is one process's own: no other process can map it."""
        return self.kind in (StoreKind.ANONYMOUS, StoreKind.NUMA)

    def __str__(self) -> str:
        return f"{self.kind}:{self.where}" if self.where else str(self.kind)


def _fits(kind: StoreKind, where: str) -> bool:
    if kind is StoreKind.ANONYMOUS:
        return not where
    return where.isdecimal() if kind is StoreKind.NUMA else bool(where)


def _name_error(name: str) -> StoreNameError:
    return StoreNameError(f"store={name!r} is none of {STORE_NAMES}")

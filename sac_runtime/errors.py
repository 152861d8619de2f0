"""What can go wrong in the runtime, one small tree. Wording: owner, field, value, rule, fix."""


class SacError(Exception):
    """A failure of the runtime."""

    exit_status = 1


class GeometryError(SacError):
    """A shape, size, dtype or layout that does not fit; unusable input."""

    exit_status = 2


class RowRangeError(SacError):
    """A row number outside the store."""

    exit_status = 2


class RowCheckError(SacError):
    """Rows that are not what was written to them, and could not be healed. rows: their numbers in the store."""

    def __init__(self, rows: list[int], where: str = "") -> None:
        self.rows = rows
        shown = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        super().__init__(
            f"store: {where}rows {shown}: their bytes do not give their checksums: flipped, torn, never written, or of another "
            "place (read them from a replica, or compute them anew)"
        )


class StoreNameError(SacError):
    """A name that no store has; unusable input."""

    exit_status = 2


class StoreError(SacError):
    """A mapping that could not be made: no such device, no space, no huge pages, no such node."""

    exit_status = 3


class GpuError(SacError):
    """No GPU that can be used, or its driver refused: no device, no memory to register, a kernel that does not compile."""

    exit_status = 3


class TraceError(SacError):
    """A trace file that is foreign, torn or damaged, or a top-k that cannot go into one."""

    exit_status = 2


class PoolFormatError(SacError):
    """A memory that holds no pool, half a pool, or another pool than the one asked for."""

    exit_status = 2


class BlockStateError(SacError):
    """A block that may not be used so: of another host, not allocated, already published; unusable input."""

    exit_status = 2


class PoolFullError(SacError):
    """No block of the arena is free, and none of those retired may be reused yet."""


class FencedError(SacError):
    """The other hosts have taken this one for dead, or another process has taken its place. It must not touch the pool again."""


class HostBusyError(SacError):
    """The host number is in use by a live process."""

    exit_status = 3


class LabelMixError(SacError):
    """A ratio would be drawn between figures that came about in different ways, or from one that claims no time."""

    exit_status = 2

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


class StoreError(SacError):
    """A mapping that could not be made: no such device, no space, no huge pages, no such node."""

    exit_status = 3

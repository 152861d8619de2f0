"""What can go wrong with a guest, one small tree."""


class GuestError(Exception):
    """A guest did not do what it was told; carries its command, status and stderr, or its console's tail."""

    exit_status = 3


class ImageError(GuestError):
    """The guest image could not be built or is not usable."""


class PromiseError(GuestError):
    """The guest shows something other than what its bed file promised; both sides are in the message."""

    exit_status = 1

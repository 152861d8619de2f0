"""What can go wrong with a guest, one small tree."""


class GuestError(Exception):
    """A guest did not do what it was told; carries its command, status and stderr, or its console's tail."""

    exit_status = 3


class ImageError(GuestError):
    """The guest image could not be built or is not usable."""


class SilentGuestError(GuestError):
    """A guest did not answer before its deadline, or said that it gave up."""


class CommandError(GuestError):
    """A command in the guest ended with another status than 0."""

    def __init__(self, command: str, status: int, stderr: str) -> None:
        super().__init__(f"in the guest, `{command}` ended with status {status}:\n{stderr.strip()}")
        self.command = command
        self.status = status
        self.stderr = stderr

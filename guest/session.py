"""An SSH session to a host: commands, Python modules, files. The one home of fabric; knows no libvirt, no bed, no CXL.

The host is known by the key made for it. Why fabric and not ssh: bytes stream both ways within our process, many sessions at
once, and nothing of the user's own SSH configuration has a say.
"""

import logging
import posixpath
import shlex
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import paramiko
from fabric import Connection

from guest.deadline import Deadline
from guest.errors import CommandError, GuestError, SilentGuestError

USER = "root"
PYTHON_PATH = "/opt/cxlbed"
SSHD_LISTENS = "Server listening on"  # sshd -e says so on the console
GIVEN_UP = ("cxlbed-init: FAILED", "Kernel panic")
CONSOLE_TAIL_LINES = 20
POLL_S = 0.05
CHUNK_BYTES = 1 << 16
logging.getLogger("paramiko.transport").setLevel(logging.CRITICAL)  # it prints a traceback for each attempt that fails


@dataclass(frozen=True)
class Outcome:
    """How a command in the guest ended."""

    command: str
    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """stdout as text."""
        return self.stdout.decode()


class Session:
    """One SSH connection to a guest; a context manager that closes it.
    port: on 127.0.0.1; key: the bed's private key; known_hosts: a file with the guest's host key, in OpenSSH's form;
    console: the file that the guest's serial console is written to, where this machine has it."""

    def __init__(self, port: int, key: Path, known_hosts: Path, console: Path | None = None) -> None:
        self._console = console
        self._port = port
        self._connection = Connection("127.0.0.1", user=USER, port=port, connect_timeout=5)
        self._connection.connect_kwargs = {
            "key_filename": str(key),
            "look_for_keys": False,
            "allow_agent": False,
        }
        self._connection.client.load_host_keys(str(known_hosts))
        self._connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def connect(self, deadline_s: float) -> None:
        """Wait until the guest answers. Raises SilentGuestError with the console's tail after `deadline_s`, or at once if
        the console says that the guest has given up."""
        deadline = Deadline.after(deadline_s)
        failure = "its console does not say that sshd listens"
        for _ in deadline.polls(POLL_S):
            if self._sshd_listens():
                try:
                    self._open(deadline)
                    return
                except (paramiko.BadHostKeyException, paramiko.AuthenticationException) as error:
                    raise GuestError(f"guest on port {self._port}: {error}") from error
                except (OSError, EOFError, paramiko.SSHException) as error:
                    failure = str(error) or type(error).__name__
        raise SilentGuestError(
            f"{self._name()} did not answer over SSH within {deadline_s:g} s: {failure}{self._tail()}"
        )

    def run(
        self,
        command: str,
        stdin: Iterable[bytes] = (),
        check: bool = True,
        name: str | None = None,
    ) -> Outcome:
        """Run a shell command. stdin: in pieces, sent as the command reads them; name: what to call it in an error, if it is long.
        Raises CommandError if it ends with another status than 0 and `check` holds."""
        channel = self._connection.create_session()
        with channel:
            channel.exec_command(command)
            stderr = bytearray()
            failures: list[BaseException] = []
            beside = [
                threading.Thread(target=_feed, args=(channel, stdin, failures), daemon=True),
                threading.Thread(target=_collect, args=(channel.recv_stderr, stderr), daemon=True),
            ]
            for thread in beside:
                thread.start()
            stdout = bytearray()
            _collect(channel.recv, stdout)
            status = channel.recv_exit_status()
            for thread in beside:
                thread.join()
        if failures:
            raise failures[0]
        outcome = Outcome(name or command, status, bytes(stdout), stderr.decode(errors="replace"))
        return _checked(outcome) if check else outcome

    def python(
        self,
        target: str,
        arguments: Sequence[str] = (),
        stdin: Iterable[bytes] = (),
        check: bool = True,
        name: str | None = None,
    ) -> Outcome:
        """Run a Python module (a dotted name) or script (a path in the guest) with the runtime on its path; else as run."""
        return self.run(_python_command(target, arguments), stdin, check, name)

    @contextmanager
    def python_process(
        self, target: str, arguments: Sequence[str] = (), name: str | None = None
    ) -> Iterator["Process"]:
        """Start a Python module or script as `python` does, to talk with; on leaving, its channel is closed."""
        command = _python_command(target, arguments)
        with self._connection.create_session() as channel:
            channel.exec_command(command)
            yield Process(channel, name or command)

    def put(self, content: bytes | Path, path: str) -> None:
        """Write `content`, or a file of this machine, to `path` in the guest."""
        folder = posixpath.dirname(path)
        raw = content.read_bytes() if isinstance(content, Path) else content
        self.run(f"mkdir -p {shlex.quote(folder)} && cat >{shlex.quote(path)}", stdin=[raw])

    def get(self, path: str) -> bytes:
        """The content of the file `path` in the guest."""
        return self.run(f"cat {shlex.quote(path)}").stdout

    def _open(self, deadline: Deadline) -> None:
        left_s = max(1.0, deadline.left_s)
        self._connection.connect_kwargs |= {"banner_timeout": left_s, "auth_timeout": left_s}
        self._connection.open()

    def _sshd_listens(self) -> bool:
        """Whether it makes sense to connect. QEMU accepts a connection long before the guest can answer it, so without a
        console to read one can but try."""
        if self._console is None:
            return True
        text = self._console_text()
        if any(line in text for line in GIVEN_UP):
            raise SilentGuestError(f"{self._name()} gave up{self._tail()}")
        return SSHD_LISTENS in text

    def _console_text(self) -> str:
        with suppress(FileNotFoundError):
            return self._console.read_text(errors="replace") if self._console else ""
        return ""

    def _name(self) -> str:
        return f"guest on port {self._port}"

    def _tail(self) -> str:
        if self._console is None:
            return ""
        lines = self._console_text().splitlines()[-CONSOLE_TAIL_LINES:]
        return f"; its console {self._console} ends:\n" + "\n".join(f"  {line}" for line in lines)


class Process:
    """A command that runs in the guest while the caller talks with it: what is written goes to its stdin, what is read comes
    from its stdout. Its stderr is collected meanwhile."""

    def __init__(self, channel: paramiko.Channel, name: str) -> None:
        self._channel = channel
        self._name = name
        self._stderr = bytearray()
        self._collecting = threading.Thread(target=_collect, args=(channel.recv_stderr, self._stderr), daemon=True)
        self._collecting.start()

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, as they come; none once the command's stdout has ended."""
        received: bytes = self._channel.recv(min(size, CHUNK_BYTES))
        return received

    def write(self, piece: bytes | memoryview, /) -> None:
        """Send all of `piece`. Raises OSError if the command has ended."""
        for start in range(0, len(piece), CHUNK_BYTES):  # sendall copies what is left again for each packet
            self._channel.sendall(piece[start : start + CHUNK_BYTES])

    def flush(self) -> None:
        """Nothing is held back."""

    def hang_up(self) -> None:
        """End its stdin."""
        with suppress(OSError):
            self._channel.shutdown_write()

    def is_alive(self) -> bool:
        """Whether the command has neither ended nor been lost with its host."""
        return not (self._channel.closed or self._channel.exit_status_ready())

    def finish(self, check: bool = True) -> Outcome:
        """End its stdin, wait until it ends; stdout: what was not read. Raises CommandError if it ends with another status
        than 0 and `check` holds."""
        self.hang_up()
        rest = bytearray()
        _collect(self._channel.recv, rest)
        status = self._channel.recv_exit_status()
        self._collecting.join()
        outcome = Outcome(self._name, status, bytes(rest), self._stderr.decode(errors="replace"))
        return _checked(outcome) if check else outcome


def _checked(outcome: Outcome) -> Outcome:
    if outcome.status != 0:
        raise CommandError(outcome.command, outcome.status, outcome.stderr)
    return outcome


def _python_command(target: str, arguments: Sequence[str]) -> str:
    how = [target] if "/" in target else ["-m", target]
    return shlex.join(["env", f"PYTHONPATH={PYTHON_PATH}", "python3", *how, *arguments])


def _feed(channel: paramiko.Channel, stdin: Iterable[bytes], failures: list[BaseException]) -> None:
    """Send beside the reading, so that neither side waits for the other with its window full."""
    try:
        for piece in stdin:
            if not _sent(channel, piece):
                break  # the command ended without reading all: its status tells more
    except BaseException as error:  # noqa: BLE001 - raised by whoever makes the pieces, and again in `run`
        failures.append(error)
    finally:
        with suppress(OSError):
            channel.shutdown_write()


def _sent(channel: paramiko.Channel, piece: bytes) -> bool:
    """Send `piece`; False if the other side is gone."""
    try:
        for start in range(0, len(piece), CHUNK_BYTES):  # sendall copies what is left again for each packet
            channel.sendall(piece[start : start + CHUNK_BYTES])
    except OSError:
        return False
    return True


def _collect(receive: Callable[[int], bytes], collected: bytearray) -> None:
    """Append what the guest sends until it sends no more."""
    while chunk := receive(CHUNK_BYTES):
        collected += chunk

"""Links booked by stores, in this process or, through a file, by all processes and beds of one machine. Knows no profiles.

A booking is answered at once, so links serve bookings in order of coming; who books small parts in turn shares fairly.
The file's times are CLOCK_MONOTONIC, the same for all processes; it belongs on a memory file system (/dev/shm), so that it
goes when the clock starts anew. Layout: a magic line, then one 64-byte line per link: hash of the name (16 bytes), busy until
(ns), booked so far (ns)."""

import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Self

from emulation.errors import InputError

MAX_LINKS = 1023
_MAGIC = int.from_bytes(b"cxlbedL1", "little")
_WORDS = 8  # of 8 bytes in a line
_SIZE_BYTES = (MAX_LINKS + 1) * _WORDS * 8
_UNTIL, _BOOKED = 2, 3


class Reservations:
    """Books work on links by name. With a `path`, on those of everyone who opens the same file.
    Raises InputError for a file that holds something else."""

    def __init__(self, path: Path | None = None) -> None:
        self._file = None if path is None else _open(path)
        self._memory = mmap.mmap(-1 if self._file is None else self._file, _SIZE_BYTES)
        self._words = memoryview(self._memory).cast("q")
        with self._locked():
            if self._words[0] not in (0, _MAGIC):
                raise InputError(f"link state {path}: is no link state of this version; give another path or remove it")
            self._words[0] = _MAGIC

    def line(self, name: str) -> int:
        """Where the link of that name is kept, made on first use. Raises InputError when all places are taken."""
        digest = blake2b(name.encode(), digest_size=16).digest()
        first, second = (int.from_bytes(digest[i : i + 8], "little", signed=True) for i in (0, 8))
        with self._locked():
            for probe in range(MAX_LINKS):
                line = _WORDS * (1 + (first + probe) % MAX_LINKS)
                kept = self._words[line], self._words[line + 1]
                if kept == (first, second):
                    return line
                if kept == (0, 0):
                    self._words[line], self._words[line + 1] = first, second
                    return line
        raise InputError(f"link state: more than {MAX_LINKS} links; remove the file to start anew")

    def book(self, lines: Sequence[int], at_ns: int, works_ns: Sequence[int]) -> int:
        """Book work on links from `at_ns` on; returns when the last of them will have served it."""
        words, served_ns = self._words, at_ns
        with self._locked():
            for line, work_ns in zip(lines, works_ns, strict=True):
                words[line + _UNTIL] = max(at_ns, words[line + _UNTIL]) + work_ns
                words[line + _BOOKED] += work_ns
                served_ns = max(served_ns, words[line + _UNTIL])
        return served_ns

    def busy_ns(self, lines: Sequence[int], at_ns: int) -> list[int]:
        """What each link had served by `at_ns` of all that was ever booked on it. Needs no lock: a glance may be old."""
        words = self._words
        return [words[line + _BOOKED] - max(0, words[line + _UNTIL] - at_ns) for line in lines]

    def booked_ns(self, name: str) -> int:
        """Work ever booked on a link."""
        return self._words[self.line(name) + _BOOKED]

    def close(self) -> None:
        """Let go of the file; the bookings stay in it for the others."""
        self._words.release()
        self._memory.close()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The file's lock, which the kernel drops when its holder dies; nothing where no one else can see the links."""
        if self._file is None:
            yield
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise InputError(f"link state {path}: cannot be opened: {exc.strerror}; give a path in /dev/shm") from exc
    if os.fstat(descriptor).st_size not in (0, _SIZE_BYTES):
        os.close(descriptor)
        raise InputError(f"link state {path}: is no link state of this version; give another path or remove it")
    os.ftruncate(descriptor, _SIZE_BYTES)
    return descriptor

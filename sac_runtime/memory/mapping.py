"""Memory mapped into this process: files, device-DAX nodes, anonymous memory, NUMA nodes, huge pages. The one home of mmap; knows
the kernel, knows no rows."""

import ctypes
import mmap
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sac_runtime import native
from sac_runtime.errors import StoreError

HUGE_PAGE_BYTES = 2 << 20


@contextmanager
def opened_file(name: str, create: bool = False) -> Iterator[int]:
    """The descriptor of a file or device, closed at the end; a mapping outlives it. Raises StoreError."""
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    except OSError as error:
        raise StoreError(f"store {name!r}: cannot be opened: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def map_file(descriptor: int, size_bytes: int, name: str, huge_pages: bool = False) -> mmap.mmap:
    """Map a file that several processes share; an empty one gets its size first. Raises StoreError if it is too small."""
    present_bytes = os.fstat(descriptor).st_size
    if present_bytes == 0:
        require_room(descriptor, name, size_bytes)
    elif present_bytes < size_bytes:
        raise StoreError(f"store {name!r}: size_bytes={present_bytes} is below the {size_bytes} that are asked for")
    try:
        allocate(descriptor, name, size_bytes)
    except StoreError:
        os.ftruncate(descriptor, present_bytes)
        raise
    return map_memory(descriptor, size_bytes, name, huge_pages)


def map_node(node: int, size_bytes: int, name: str, huge_pages: bool = False) -> mmap.mmap:
    """Memory of this process, bound to one NUMA node. Raises StoreError."""
    memory = map_memory(-1, size_bytes, name, huge_pages)
    native.bind_node(ctypes.addressof(ctypes.c_char.from_buffer(memory)), size_bytes, node)
    return memory


def require_node(node: int, name: str) -> None:
    """Raise StoreError where this machine has no such NUMA node."""
    if not Path(f"/sys/devices/system/node/node{node}").exists():
        raise StoreError(f"{name}: no such node; /sys/devices/system/node lists those of this machine")


def require_room(descriptor: int, name: str, size_bytes: int) -> None:
    """Raise StoreError where a file's file system has less than `size_bytes` free: before anything of it is taken."""
    space = os.fstatvfs(descriptor)
    free_bytes = space.f_bavail * space.f_frsize
    if free_bytes < size_bytes:
        raise StoreError(
            f"store {name!r}: size_bytes={size_bytes} exceeds the {free_bytes} bytes free on its file system"
        )


def allocate(descriptor: int, name: str, size_bytes: int) -> None:
    """Give every page of a file its place on the file system, whoever made the file: one that is found full when a page is first
    written ends the process with SIGBUS. Raises StoreError."""
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        raise StoreError(
            f"store {name!r}: size_bytes={size_bytes} cannot be allocated on its file system: {error.strerror} (free some, or "
            "choose another)"
        ) from error


def map_memory(descriptor: int, size_bytes: int, name: str, huge_pages: bool = False) -> mmap.mmap:
    """Map a file, or memory of this process alone for descriptor -1. Raises StoreError."""
    flags = mmap.MAP_SHARED if descriptor >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        memory = mmap.mmap(descriptor, size_bytes, flags=flags)
    except (OSError, ValueError, OverflowError) as error:
        raise StoreError(f"store {name!r}: {size_bytes} bytes cannot be mapped: {error}") from error
    if huge_pages:
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError as error:
            raise StoreError(f"store {name!r}: kernel without huge pages ({error}); pass huge_pages=False") from error
    return memory


def dax_size_bytes(name: str) -> int:
    """Size of a device-DAX node, from sysfs. Raises StoreError for anything else, or an unusable size."""
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116
    except OSError as error:
        raise StoreError(f"store {name!r}: cannot be opened: {error.strerror}") from error
    size_file = Path("/sys/bus/dax/devices") / Path(name).name / "size"
    if not stat.S_ISCHR(mode) or not size_file.exists():
        raise StoreError(
            f"store {name!r}: is not a device-DAX node; "
            "make one with: daxctl reconfigure-device --mode=devdax -f daxN.M"
        )
    size_bytes = int(size_file.read_text())
    if size_bytes < HUGE_PAGE_BYTES or size_bytes % HUGE_PAGE_BYTES:
        raise StoreError(
            f"store {name!r}: size_bytes={size_bytes} is not a positive multiple of 2 MiB, as device DAX maps"
        )
    return size_bytes


def huge_page_bytes(smaps: str, start: int, end: int) -> int:
    """Bytes of [start, end) on huge pages, by the text of /proc/PID/smaps; of a mapping that reaches beyond it, those that the
    part beyond is too small to account for."""
    fields = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb", "Private_Hugetlb")
    total = inside = outside = huge = 0
    for line in [*smaps.splitlines(), "0-0 "]:
        header = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if header:
            total += max(0, min(inside, huge - outside))
            first, last = (int(word, 16) for word in header.groups())
            inside = max(0, min(end, last) - max(start, first))
            outside, huge = last - first - inside, 0
        elif inside and line.startswith(fields):
            huge += 1024 * int(line.split()[1])
    return total

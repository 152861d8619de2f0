"""The initramfs: cpio archives in the kernel's `newc` form, one for the image, one more for each bed.

The kernel unpacks archives that follow each other in one file, so a bed's archive is simply appended to the image's.
Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

OVERLAY = "overlay"  # the folder that guest/image/init/init.c makes the upper layer of the guest's root
PRIVATE_FOLDERS = frozenset({"root", "root/.ssh"})


class Archive:
    """A cpio archive under construction; parent folders are added as they are needed."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._folders: set[str] = set()
        self._num_entries = 0

    def add(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file, owned by root. name: relative to the root; mode: its permission bits."""
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            self._add_folder(str(parent))
        self._entry(name, stat.S_IFREG | mode, content)

    def finished(self) -> bytes:
        """The archive's bytes, ended and padded so that another may follow."""
        self._entry("TRAILER!!!", 0, b"")
        return bytes(self._bytes)

    def _add_folder(self, name: str) -> None:
        if name in self._folders:
            return
        self._folders.add(name)
        is_private = name.removeprefix(OVERLAY + "/") in PRIVATE_FOLDERS
        self._entry(name, stat.S_IFDIR | (0o700 if is_private else 0o755), b"")

    def _entry(self, name: str, mode: int, content: bytes) -> None:
        self._num_entries += 1
        raw_name = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device major and minor, node major and minor, name's size, checksum
        fields = (self._num_entries, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw_name), 0)
        self._bytes += b"070701" + b"".join(b"%08x" % field for field in fields) + raw_name
        self._pad()
        self._bytes += content
        self._pad()

    def _pad(self) -> None:
        self._bytes += bytes(-len(self._bytes) % 4)


def write_initrd(base_initrd: Path, files: Mapping[str, bytes | Path], out: Path) -> None:
    """Write `base_initrd` and behind it one bed's own files to `out`, whole or not at all.
    files: absolute path in the guest -> content, or a file or folder of this machine. Files of this machine keep their
    permission bits; content given as bytes is readable by root alone."""
    archive = Archive()
    for path, source in files.items():
        _add_source(archive, PurePosixPath(path), source)
    fresh = out.with_name(f".{out.name}.part")
    fresh.write_bytes(base_initrd.read_bytes() + archive.finished())
    fresh.replace(out)


def _add_source(archive: Archive, path: PurePosixPath, source: bytes | Path) -> None:
    name = f"{OVERLAY}/{path.relative_to('/')}"
    if isinstance(source, bytes):
        archive.add(name, source, 0o600)
    elif source.is_dir():
        for file in sorted(source.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.add(
                    f"{name}/{file.relative_to(source).as_posix()}", file.read_bytes(), file.stat().st_mode & 0o777
                )
    else:
        archive.add(name, source.read_bytes(), source.stat().st_mode & 0o777)

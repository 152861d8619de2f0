"""Bulk bytes between testbed and agent through memory that both map, beside a stream that says what lies there.

A lane is a part of an exchange region: a header, then two rings, one each way. Whoever writes puts a long piece into its ring and
sends a frame behind it, by which the reader wakes; short pieces follow their frames on the stream. The reader's counter in the
header tells the writer how much of the ring is free again. So a stream is needed all the same, what ends it ends the talk, and
without a lane the same messages go by the stream alone (`guest.agent.protocol`).

    header  8 bytes "CXLLANE1", uint64 nonce; at 64 and 128 the uint64 counters of bytes read: by the agent, by the testbed
    frame   uint8 kind (0 inline, 1 ring), uint32 length, uint64 position, uint32 crc32 of these; little-endian

Both sides run little-endian machines of one clock of cache lines: the memory is coherent, as shared memory of one host is.
"""

import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guest.agent.errors import HostError, MessageError
from guest.agent.protocol import Sink, Source
from sac_runtime.rows.layout import ByteArray

MIB = 1 << 20
NUM_LANES = 4
LANE_BYTES = 32 * MIB
REGION_BYTES = NUM_LANES * LANE_BYTES
HEADER_BYTES = 4096
RING_BYTES = LANE_BYTES // 2 - HEADER_BYTES
PIECE_BYTES = 2 * MIB
INLINE_BELOW = 16384  # bytes that cost less on the stream than a copy and a wait
MAGIC = b"CXLLANE1"
HEADER = struct.Struct("<8sQ")
FRAME = struct.Struct("<BIQ")
CRC = struct.Struct("<I")
INLINE, RING = 0, 1
FULL_DEADLINE_S = 60.0
VENDOR, DEVICE, RESOURCE = "0x1af4", "0x1110", "resource2"  # QEMU's ivshmem; its third resource is the memory
PCI_DEVICES = Path("/sys/bus/pci/devices")


class LaneError(HostError):
    """The exchange region is not there, is another one, or stays full."""


@dataclass(frozen=True, eq=False)
class Ring:
    """One direction of a lane. cells: (RING_BYTES,) uint8; counter: (1,) uint64, bytes that the reader has taken since the lane
    was opened, stored and loaded whole."""

    cells: ByteArray
    counter: NDArray[np.uint64]
    name: str

    @classmethod
    def at(cls, memory: mmap.mmap, start: int, counter: int, name: str) -> "Ring":
        """The ring that begins `start` bytes into `memory`, its counter at `counter`."""
        cells = np.frombuffer(memory, np.uint8, RING_BYTES, start)
        return cls(cells, np.frombuffer(memory, np.uint64, 1, counter), name)

    @property
    def num_read(self) -> int:
        return int(self.counter[0])

    def note_read(self, count: int) -> None:
        """Tell the writer that `count` bytes in all have been taken."""
        self.counter[0] = count

    def put(self, position: int, piece: ByteArray) -> None:
        """Write `piece`, for which there must be room, at `position`, wrapped around the ring's end."""
        at, first = self._split(position, piece.size)
        self.cells[at : at + first] = piece[:first]
        self.cells[: piece.size - first] = piece[first:]

    def take(self, position: int, out: ByteArray) -> None:
        """Fill `out` from `position` on."""
        at, first = self._split(position, out.size)
        out[:first] = self.cells[at : at + first]
        out[first:] = self.cells[: out.size - first]

    def _split(self, position: int, size: int) -> tuple[int, int]:
        """Where in the cells `position` is, and how many of `size` bytes fit before their end."""
        at = position % RING_BYTES
        return at, min(size, RING_BYTES - at)


@dataclass(frozen=True)
class Lane:
    """One lane as mapped: to_agent and to_testbed are its rings."""

    to_agent: Ring
    to_testbed: Ring

    @classmethod
    def create(cls, memory: mmap.mmap, number: int, nonce: int) -> "Lane":
        """Make lane `number` anew; the testbed does, before the agent is told its nonce."""
        base = number * LANE_BYTES
        memory[base : base + HEADER_BYTES] = bytes(HEADER_BYTES)
        HEADER.pack_into(memory, base, MAGIC, nonce)
        return cls._at(memory, base)

    @classmethod
    def join(cls, memory: mmap.mmap, number: int, nonce: int) -> "Lane":
        """The lane that the testbed made. Raises LaneError where this memory holds another one, or none."""
        base = number * LANE_BYTES
        if not 0 <= number < NUM_LANES or len(memory) < REGION_BYTES:
            raise LaneError(f"exchange: lane {number} does not lie in a region of {len(memory)} bytes")
        magic, held = HEADER.unpack_from(memory, base)
        if (magic, held) != (MAGIC, nonce):
            raise LaneError(
                f"exchange: lane {number} is not the testbed's: holds {magic!r} {held:#x}, not {MAGIC!r} {nonce:#x}"
            )
        return cls._at(memory, base)

    @classmethod
    def _at(cls, memory: mmap.mmap, base: int) -> "Lane":
        rings = base + HEADER_BYTES
        to_agent = Ring.at(memory, rings, base + 64, "to the agent")
        return cls(to_agent, Ring.at(memory, rings + RING_BYTES, base + 128, "to the testbed"))


class LaneSink:
    """A Sink whose long pieces go by a ring. is_alive: whether anybody still reads; a dead reader's ring stays full."""

    def __init__(self, stream: Sink, ring: Ring, is_alive: Callable[[], bool] = lambda: True) -> None:
        self._stream = stream
        self._ring = ring
        self._is_alive = is_alive
        self._num_written = 0
        self._pending = bytearray()

    def write(self, piece: bytes | memoryview, /) -> None:
        """Send `piece`. Raises LaneError if the ring stays full; OSError where the other side is gone."""
        raw = np.frombuffer(piece, np.uint8) if len(piece) else np.empty(0, np.uint8)
        if raw.size < INLINE_BELOW:
            self._pending += _frame(INLINE, raw.size, 0) + piece
            return
        for start in range(0, raw.size, PIECE_BYTES):
            self._put(raw[start : start + PIECE_BYTES])

    def flush(self) -> None:
        """Send what is held back."""
        if self._pending:
            self._stream.write(bytes(self._pending))
            self._pending.clear()
        self._stream.flush()

    def _put(self, piece: ByteArray) -> None:
        self._wait_for_room(piece.size)
        self._ring.put(self._num_written, piece)
        self._pending += _frame(RING, piece.size, self._num_written)
        self._num_written += piece.size
        self.flush()

    def _wait_for_room(self, size: int) -> None:
        if self._has_room(size):
            return
        self.flush()  # else the reader might wait for what we hold back
        give_up, last = time.monotonic() + FULL_DEADLINE_S, self._ring.num_read
        while not self._has_room(size):
            if not self._is_alive():
                raise BrokenPipeError("exchange: nobody reads any more")
            if self._ring.num_read != last:
                give_up, last = time.monotonic() + FULL_DEADLINE_S, self._ring.num_read
            if time.monotonic() > give_up:
                unread = self._num_written - last
                raise LaneError(
                    f"exchange: the ring {self._ring.name} is full: {unread} of {RING_BYTES} bytes are unread, and none was"
                    f" read for {FULL_DEADLINE_S:g} s; does the other side still run?"
                )
            time.sleep(0.0005)

    def _has_room(self, size: int) -> bool:
        return self._num_written + size - self._ring.num_read <= RING_BYTES


class LaneSource:
    """A Source whose long pieces come by a ring."""

    def __init__(self, stream: Source, ring: Ring) -> None:
        self._stream = stream
        self._ring = ring
        self._num_read = 0
        self._kind, self._left = INLINE, 0

    def read(self, size: int, /) -> bytes | bytearray:
        """At most `size` bytes, none at the stream's end. Raises MessageError for a frame that cannot be."""
        if self._left == 0 and not self._next_frame():
            return b""
        size = min(size, self._left)
        piece = self._from_ring(size) if self._kind == RING else self._stream.read(size)
        self._left -= len(piece)
        return piece

    def _from_ring(self, size: int) -> bytearray:
        piece = bytearray(size)
        self._ring.take(self._num_read, np.frombuffer(piece, np.uint8))
        self._num_read += size
        self._ring.note_read(self._num_read)
        return piece

    def _next_frame(self) -> bool:
        """Read the next frame that announces bytes; False where the stream has ended."""
        while self._left == 0:
            raw = self._whole_frame()
            if not raw:
                return False
            self._kind, self._left, position = FRAME.unpack(raw[: FRAME.size])
            if CRC.unpack(raw[FRAME.size :])[0] != zlib.crc32(raw[: FRAME.size]):
                raise MessageError(f"exchange: a frame has another checksum than its own: {raw.hex()}")
            if self._kind == RING and (position != self._num_read or self._left > RING_BYTES):
                raise MessageError(
                    f"exchange: a frame announces {self._left} bytes at {position}; the ring {self._ring.name} is at"
                    f" {self._num_read} and holds {RING_BYTES}"
                )
        return True

    def _whole_frame(self) -> bytearray:
        size, raw = FRAME.size + CRC.size, bytearray()
        while len(raw) < size and (piece := self._stream.read(size - len(raw))):
            raw += piece
        if raw and len(raw) < size:
            raise MessageError(f"exchange: the stream ends {size - len(raw)} bytes too early, within a frame")
        return raw


def map_region(path: Path) -> mmap.mmap:
    """The exchange region at `path`, shared. Raises LaneError where it cannot be mapped."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return mmap.mmap(descriptor, REGION_BYTES)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise LaneError(f"exchange: {path} cannot be mapped: {error}") from error


def guest_region(devices: Path = PCI_DEVICES) -> Path:
    """Where this guest finds its exchange region: the memory of QEMU's ivshmem device. Raises LaneError where it has none."""
    for device in sorted(devices.glob("*")):
        if (device / "vendor").read_text().strip() == VENDOR and (device / "device").read_text().strip() == DEVICE:
            return device / RESOURCE
    raise LaneError(f"exchange: no ivshmem device ({VENDOR}:{DEVICE}) below {devices}; start the agent without --lane")


def _frame(kind: int, length: int, position: int) -> bytes:
    raw = FRAME.pack(kind, length, position)
    return raw + CRC.pack(zlib.crc32(raw))

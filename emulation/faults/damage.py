"""Pools whose metadata memory does not give back as it was written: bits flipped, lines torn, lost, replayed, filled, forged.

Knows pools and their lines; makes nothing but memory of this process. A trial tells a random story of three hosts, damages lines
of superblock, states, marks and journals, and lets those who were there and those who come later go on. Whatever they find under a
lease that ends well must be what its hash says; anything else must be an error with a name, in bounded time. Rows are left alone:
those are what row checksums are for.

    report = fuzz(seed=0, trials=1000)
    assert not report.wrong and not report.unnamed and not report.hung
"""

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

import numpy as np
from numpy.typing import NDArray

from sac_runtime.errors import PoolFullError, SacError
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.pool.block_hash import BlockHashes, chain_hashes
from sac_runtime.pool.directory import ABSENT
from sac_runtime.pool.format import PoolGeometry, reseal_superblock
from sac_runtime.pool.lease import Lease
from sac_runtime.pool.lines import ENTRY, MARK, RETIRED, STATE, salt_of, write_lines
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import LINE_BYTES, ByteArray, IntArray, KvLayout

GEOMETRY = PoolGeometry(
    KvLayout.bf16(latent=48, rope=16), num_hosts=3, num_layers=1, block_tokens=2, blocks_per_host=6, index_key_bytes=0
)
BLOCKS_PER_REQUEST = 2
MOST_EVENTS = 24  # of a story; the rings of these pools come round after 24 entries
HANG_S = 20.0  # a trial takes some 20 ms
ODD_COUNTS = (0, 1, 2, 5, 6, 17, 18, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


class HangError(BaseException):
    """A trial that does not end. Not an Exception: no code under test may catch it."""


@dataclass
class FuzzReport:
    """What became of the trials. refused: errors by name; wrong, unnamed, hung: "seed/trial kind: what happened"."""

    trials: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    found_right: int = 0
    withdrawn: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)


class Watch:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


class Story:
    """Three hosts in one memory, and what they did until now. `snapshots`: the metadata as it was after each event."""

    def __init__(self, random: np.random.Generator, memory: MappedStore) -> None:
        self.memory = memory
        self.watch = Watch()
        self.num_requests = 0
        self.snapshots: list[ByteArray] = []
        self.pools = [self._create()]
        self.pools += [self.open(1), self.open(2)]
        self._held: dict[int, list[IntArray]] = {0: [], 1: [], 2: []}
        for _ in range(int(random.integers(3, MOST_EVENTS))):
            self._happen(random)
            self.snapshots.append(self.metadata())

    def open(self, host: int) -> Pool:
        """Join as `host`, whoever was that host before."""
        return Pool.open(self.memory, host=host, patience_s=1.0, clock_ns=self.watch, sleep=self.wait)

    def wait(self, seconds: float) -> None:
        """Time passes, and host 1 lives."""
        self.watch.sleep(seconds)
        with suppress(SacError):
            self.pools[1].beat()

    def metadata(self) -> ByteArray:
        whole = np.empty(GEOMETRY.metadata_bytes, np.uint8)
        self.memory.read_bytes(0, whole)
        return whole

    def put(self, pool: Pool) -> IntArray:
        """Publish the next request."""
        self.num_requests += 1
        hashes = chain_of(self.num_requests)
        return pool.put(hashes, contents(hashes))

    def _create(self) -> Pool:
        self.memory.write_bytes(0, np.zeros(GEOMETRY.metadata_bytes, np.uint8))
        return Pool.create(
            self.memory,
            host=0,
            num_hosts=GEOMETRY.num_hosts,
            num_layers=GEOMETRY.num_layers,
            block_tokens=GEOMETRY.block_tokens,
            blocks_per_host=GEOMETRY.blocks_per_host,
            clock_ns=self.watch,
            patience_s=1.0,
        )

    def _happen(self, random: np.random.Generator) -> None:
        host = int(random.choice(3, p=[0.6, 0.2, 0.2]))
        held = self._held[host]
        if held and random.random() < 0.5:
            self.pools[host].retire(held.pop(int(random.integers(len(held)))))
            return
        with suppress(PoolFullError):
            if random.random() < 0.3:
                self._scribble(self.pools[host])
            else:
                held.append(self.put(self.pools[host]))

    def _scribble(self, pool: Pool) -> None:
        """Write over all blocks that are free, those that were published once among them, and publish nothing."""
        blocks = pool.allocate(2)
        blocks = np.concatenate([blocks, pool.allocate(pool.num_free)])
        pool.write(blocks, 0, np.full((len(blocks) * GEOMETRY.block_tokens, GEOMETRY.layout.row_bytes), 0xBB, np.uint8))
        pool.free(blocks)


def chain_of(request: int) -> BlockHashes:
    """Hashes of a request's blocks; requests share nothing."""
    tokens = np.arange(BLOCKS_PER_REQUEST * GEOMETRY.block_tokens) + 1000 * request
    return chain_hashes(tokens, GEOMETRY.block_tokens)


def contents(hashes: BlockHashes) -> ByteArray:
    """What blocks of these hashes hold, whoever writes them. Returns (num_layers, n * block_tokens, row_bytes) uint8."""
    shape = (GEOMETRY.num_layers, GEOMETRY.block_tokens, GEOMETRY.layout.row_bytes)
    blocks = [
        np.random.default_rng([int(word) for word in name]).integers(0, 256, shape, dtype=np.uint8) for name in hashes
    ]
    return np.concatenate(blocks, axis=1)


def fuzz(seed: int, trials: int, first: int = 0) -> FuzzReport:
    """Trials first .. first + trials - 1 of `seed`, each of its own story and damage. The same numbers give the same trials, but
    for the pools' random ids."""
    report = FuzzReport()
    with MappedStore.anonymous(
        GEOMETRY.layout, GEOMETRY.num_rows, huge_pages=False, metadata_bytes=GEOMETRY.metadata_bytes
    ) as memory:
        for trial in range(first, first + trials):
            _one_trial(seed, trial, memory, report)
    return report


def _one_trial(seed: int, trial: int, memory: MappedStore, report: FuzzReport) -> None:
    random = np.random.default_rng([seed, trial])
    story = Story(random, memory)
    kind = str(random.choice(list(DAMAGES)))
    name = f"{seed}/{trial} {kind}"
    report.trials += 1
    report.by_kind[kind] += 1
    try:
        with _alarm(HANG_S):
            _go_on(story, random, DAMAGES[kind], report, name)
    except SacError as error:
        report.refused[type(error).__name__] += 1
    except HangError:
        report.hung.append(name)
    except Exception as error:  # noqa: BLE001  any error without a name of ours is what is looked for
        report.unnamed.append(f"{name}: {type(error).__name__}: {error}")


def _go_on(
    story: Story,
    random: np.random.Generator,
    damage: "Damage",
    report: FuzzReport,
    name: str,
) -> None:
    """One host holds a lease while the damage comes; another joins then, reads and writes; a third comes after that."""
    witness, host = story.pools[1], int(random.choice([0, 0, 2]))
    manager = witness.lease()
    lease = manager.__enter__()
    known = [(request, lease.prefix(chain_of(request))) for request in range(1, story.num_requests + 1)]
    damage(random, story)
    with _refusals_counted(report):
        newcomer = story.open(host)
        _read_all(story, newcomer, report, f"{name}: newcomer {host}")
        _write(story, newcomer)
        _read_all(story, newcomer, report, f"{name}: newcomer {host}, after writing")
    with _refusals_counted(report):
        try:
            seen = [(request, _wrong(witness, request, blocks)) for request, blocks in known]
        finally:
            manager.__exit__(None, None, None)
        report.wrong += [f"{name}: witness, under its old lease, request {request}" for request, bad in seen if bad]
        _read_all(story, witness, report, f"{name}: witness")
    third = story.open(2 - host)
    _read_all(story, third, report, f"{name}: third")
    report.withdrawn += third.num_withdrawn


@contextmanager
def _refusals_counted(report: FuzzReport) -> Iterator[None]:
    try:
        yield
    except SacError as error:
        report.refused[type(error).__name__] += 1


def _read_all(story: Story, pool: Pool, report: FuzzReport, name: str) -> None:
    """Look every request up under one lease; what is found counts if the lease ends well."""
    with pool.lease() as lease:
        bad = [request for request in range(1, story.num_requests + 1) if _misread(pool, lease, request, report)]
    report.wrong += [f"{name}, request {request}" for request in bad]


def _misread(pool: Pool, lease: Lease, request: int, report: FuzzReport) -> bool:
    blocks = lease.prefix(chain_of(request))
    report.found_right += len(blocks)
    return _wrong(pool, request, blocks)


def _wrong(pool: Pool, request: int, blocks: IntArray) -> bool:
    """Whether blocks found for the first hashes of a request hold anything else than they should."""
    blocks = blocks[blocks != ABSENT]
    if not len(blocks):
        return False
    rows = np.empty((len(blocks) * GEOMETRY.block_tokens, GEOMETRY.layout.row_bytes), np.uint8)
    pool.store.read_rows(pool.rows(blocks, 0), rows)
    is_full = bool((pool.num_tokens(blocks) == GEOMETRY.block_tokens).all())
    return not is_full or bool((rows != contents(chain_of(request)[: len(blocks)])[0]).any())


def _write(story: Story, pool: Pool) -> None:
    """Publish and retire until blocks are reused."""
    with suppress(PoolFullError):
        for _ in range(4):
            pool.retire(story.put(pool))
        story.put(pool)
    pool.retire_coldest(1)


# -- damage ------------------------------------------------------------------------------------------------------------------------

Damage = Callable[[np.random.Generator, Story], None]


def _flip(random: np.random.Generator, story: Story) -> None:
    """Bits, or whole bytes, of lines in use."""
    for _ in range(int(random.integers(1, 6))):
        offset = _used_line(random, story) + int(random.integers(LINE_BYTES))
        byte = story.metadata()[offset : offset + 1]
        changed = byte ^ np.uint8(1 << int(random.integers(8))) if random.random() < 0.7 else random.bytes(1)
        story.memory.write_bytes(offset, np.frombuffer(bytes(changed), np.uint8))


def _replay(random: np.random.Generator, story: Story) -> None:
    """Lines as they were at an earlier time, some of them in another place."""
    for _ in range(int(random.integers(1, 5))):
        old = story.snapshots[int(random.integers(len(story.snapshots)))]
        to = _used_line(random, story)
        source = to if random.random() < 0.7 else _used_line(random, story)
        size = LINE_BYTES * int(random.choice([1, 1, 1, 2, 4, 16]))
        size = min(size, GEOMETRY.metadata_bytes - max(to, source))
        story.memory.write_bytes(to, old[source : source + size].copy())


def _replay_states(random: np.random.Generator, story: Story) -> None:
    """Both state lines of a host go back in time, together; or one of them."""
    old = story.snapshots[int(random.integers(len(story.snapshots)))]
    host = int(random.integers(GEOMETRY.num_hosts))
    for turn in random.permutation(2)[: int(random.integers(1, 3))].tolist():
        offset = GEOMETRY.state_offset(host, turn)
        story.memory.write_bytes(offset, old[offset : offset + LINE_BYTES].copy())


def _fill(random: np.random.Generator, story: Story) -> None:
    """A range full of noise, zeros or ones."""
    size = int(random.choice([8, 64, 64, 128, 512, 4096]))
    offset = int(random.integers(0, GEOMETRY.metadata_bytes - size))
    if random.random() < 0.5:
        offset = min(_used_line(random, story), GEOMETRY.metadata_bytes - size)
    noise = np.frombuffer(random.bytes(size), np.uint8)
    values = (noise, np.zeros(size, np.uint8), np.full(size, 255, np.uint8))[int(random.integers(3))]
    story.memory.write_bytes(offset, values)


def _tombstones(random: np.random.Generator, story: Story) -> None:
    """Bits of entries that retire blocks."""
    journals = story.metadata()[GEOMETRY.journal_offset(0) : GEOMETRY.journal_offset(3)]
    retired = np.flatnonzero(journals.view(ENTRY)["kind"] == RETIRED)
    for slot in random.permutation(retired)[: int(random.integers(1, 4))].tolist():
        offset = GEOMETRY.journal_offset(0) + slot * LINE_BYTES + int(random.integers(LINE_BYTES))
        story.memory.write_bytes(offset, story.metadata()[offset : offset + 1] ^ np.uint8(1 << int(random.integers(8))))


def _forge(random: np.random.Generator, story: Story) -> None:
    """Odd counts under a right checksum, as a hostile host writes them, or one of another version. Not what a host can say of its
    own blocks without anybody knowing better: that one was published, how many tokens it holds, or that it was never used."""
    for _ in range(int(random.integers(1, 4))):
        offset = _used_line(random, story)
        count = int(random.choice(np.array(ODD_COUNTS, object)))
        if offset < GEOMETRY.state_offset(0, 0):
            reseal_superblock(
                story.memory, str(random.choice(["num_layers", "block_tokens", "blocks_per_host"])), count
            )
            continue
        dtype, writer, fields = _format_at(offset)
        line = story.metadata()[offset : offset + LINE_BYTES].copy().view(dtype)
        name = str(random.choice(fields))
        count = {"block": 2**32 - 1 - count % 2**16, "kind": 3 + count % 999, "num_tokens": 3 + count % 999}.get(
            name, count
        )
        line[name] = (count + 6 if name == "blocks_used" else count) % 2 ** (8 * line[name].dtype.itemsize)
        write_lines(story.memory, offset, line, salt_of(_pool_id(story), writer, dtype))


def _format_at(offset: int) -> tuple[np.dtype[np.void], int, list[str]]:
    """Format of the line at `offset`, whose writer it is, and the fields worth forging."""
    if offset >= GEOMETRY.journal_offset(0):
        host = (offset - GEOMETRY.journal_offset(0)) // (GEOMETRY.journal_slots * LINE_BYTES)
        return ENTRY, host, ["block", "kind", "num_tokens", "epoch", "sequence"]
    place = (offset - GEOMETRY.state_offset(0, 0)) // LINE_BYTES
    host, line = divmod(place, GEOMETRY.host_area_lines)
    if line < 2:
        return STATE, host, ["sequence", "incarnation", "status", "epoch", "reading", "head", "blocks_used"]
    return MARK, line - 2, ["incarnation"]


def _pool_id(story: Story) -> int:
    return int(story.metadata()[16:24].view("<u8")[0])


def _used_line(random: np.random.Generator, story: Story) -> int:
    """Offset of a line that is not blank."""
    used: NDArray[np.int64] = np.flatnonzero(story.metadata().reshape(-1, LINE_BYTES).any(axis=1))
    return int(random.choice(used)) * LINE_BYTES


DAMAGES: dict[str, Damage] = {
    "flip": _flip,
    "replay": _replay,
    "replay states": _replay_states,
    "fill": _fill,
    "tombstones": _tombstones,
    "forge": _forge,
}


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise HangError in the body after `seconds`; main thread only."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

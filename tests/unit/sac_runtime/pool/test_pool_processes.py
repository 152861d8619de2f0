"""Real processes on one shared file: one publishes and retires without end and is killed at random, the other reads meanwhile."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sac_runtime.errors import FencedError
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.pool.block_hash import chain_hashes
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import KvLayout
from tests.support.pool import contents, create, put, read

GEOMETRY = PoolGeometry(KvLayout.fp8(), num_hosts=2, num_layers=3, block_tokens=4, blocks_per_host=8)

# Says on stdout what it is about to retire, and what it has published.
WRITER = """
import sys
import numpy as np
from sac_runtime.errors import PoolFullError
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.pool.block_hash import chain_hashes
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import KvLayout

path, num_rows, metadata_bytes, request = sys.argv[1], *map(int, sys.argv[2:])
store = MappedStore.shared(path, layout=KvLayout.fp8(), num_rows=num_rows, metadata_bytes=metadata_bytes)
pool = Pool.open(store, host=0, patience_s=0.1)
pool.retire_coldest(8)
print("ready", flush=True)
last = None
while True:
    request += 1
    hashes = chain_hashes(np.arange(12) + 1000 * request, 4)
    blocks = [np.random.default_rng(int(h[0])).integers(0, 256, (3, 4, 656), dtype=np.uint8) for h in hashes]
    while True:
        try:
            written = pool.put(hashes, np.concatenate(blocks, axis=1))
            break
        except PoolFullError:
            pass
    print("published", request, flush=True)
    if last is not None:
        print("retiring", request - 1, flush=True)
        pool.retire(last)
    last = written
"""


class Writer:
    """The process, and what it has said so far."""

    def __init__(self, path, request):
        arguments = [path, GEOMETRY.num_rows, GEOMETRY.metadata_bytes, request]
        self._process = subprocess.Popen([sys.executable, "-c", WRITER, *map(str, arguments)], stdout=subprocess.PIPE)
        self.last_published, self.last_retiring = request, request
        assert self._process.stdout.readline() == b"ready\n"
        os.set_blocking(self._process.stdout.fileno(), False)
        self._unfinished = b""

    def listen(self):
        *lines, self._unfinished = (self._unfinished + (self._process.stdout.read() or b"")).split(b"\n")
        for line in lines:
            verb, request = line.decode().split()
            if verb == "published":
                self.last_published = int(request)
            else:
                self.last_retiring = int(request)

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.listen()
        self._process.stdout.close()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "pool"
    with open_store(path) as store:
        create(store, GEOMETRY).close()
    return path


def open_store(path):
    return MappedStore.shared(
        path, layout=GEOMETRY.layout, num_rows=GEOMETRY.num_rows, metadata_bytes=GEOMETRY.metadata_bytes
    )


def hashes_of(request):
    return chain_hashes(np.arange(12) + 1000 * request, 4)


class Reader:
    """Host 1 in this process. On a busy machine it may be fenced off for its silence: then it comes back, and reads again."""

    def __init__(self, store):
        self._store = store
        self.pool = Pool.open(store, host=1)

    def read_once(self, request):
        """How many blocks of the request are found. They must hold what they should, at the lease's end too."""
        try:
            with self.pool.lease() as lease:
                blocks = lease.prefix(hashes_of(request))
                first = read(self.pool, blocks)
                time.sleep(random.random() * 0.002)
                second = read(self.pool, blocks)
        except FencedError:
            self.pool = Pool.open(self._store, host=1)
            return self.read_once(request)
        wanted = contents(hashes_of(request)[: len(blocks)], GEOMETRY)
        assert (first == wanted).all()
        assert (second == wanted).all()
        return len(blocks)

    def read_for(self, writer, seconds):
        deadline = time.monotonic() + seconds
        num_read = 0
        while time.monotonic() < deadline:
            writer.listen()
            num_read += self.read_once(writer.last_published)
        return num_read


def test_a_process_reads_right_while_another_publishes_and_retires(path):
    with open_store(path) as store:
        reader, writer = Reader(store), Writer(path, 0)
        try:
            num_read = reader.read_for(writer, seconds=1.5)
        finally:
            writer.kill()
        assert num_read > 10
        assert writer.last_published > 10
        assert reader.pool.num_torn_entries == 0


def test_a_process_killed_at_random_loses_nothing_that_it_had_published(path):
    request = 0
    with open_store(path) as store:
        reader = Reader(store)
        for seed in range(8):
            writer = Writer(path, request)
            try:
                reader.read_for(writer, random.Random(seed).uniform(0.01, 0.3))
            finally:
                writer.kill()
            for known in range(writer.last_retiring + 1, writer.last_published + 1):
                assert reader.read_once(known) == 3, f"request {known} was published and is lost"
            request = writer.last_published + 1
        assert reader.pool.num_torn_entries == 0


def test_a_prompt_computed_in_one_process_is_found_in_another(path):
    """Written here, found by a process that knows nothing but the file and the tokens."""
    code = (
        "import sys, numpy as np\n"
        "from sac_runtime.pool.block_hash import chain_hashes\n"
        "from sac_runtime.rows.layout import KvLayout\n"
        "from sac_runtime.pool.pool import Pool\n"
        "from sac_runtime.memory.mapped import MappedStore\n"
        f"store = MappedStore.shared(sys.argv[1], layout=KvLayout.fp8(), metadata_bytes={GEOMETRY.metadata_bytes})\n"
        "with Pool.open(store, host=1) as pool, pool.lease() as lease:\n"
        "    blocks = lease.prefix(chain_hashes(np.arange(12) + 7000, 4))\n"
        "    out = np.empty((12, 656), np.uint8)\n"
        "    store.read_rows(pool.rows(blocks, 2), out)\n"
        "sys.stdout.buffer.write(out.tobytes())\n"
    )
    with open_store(path) as store, Pool.open(store, host=0) as pool:
        put(pool, hashes_of(7))
        seen = subprocess.run([sys.executable, "-c", code, path], stdout=subprocess.PIPE, check=True).stdout
    assert seen == contents(hashes_of(7), GEOMETRY)[2].tobytes()


def test_a_fork_is_told_that_it_holds_no_host_number_and_the_parent_goes_on(tmp_path):
    path = tmp_path / "pool"
    sizes = {"num_rows": GEOMETRY.num_rows, "metadata_bytes": GEOMETRY.metadata_bytes}
    hashes = chain_hashes(np.arange(12), 4)
    with MappedStore.shared(path, layout=KvLayout.fp8(), **sizes) as store:
        pool = create(store, GEOMETRY)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            said = "published"
            try:
                put(pool, hashes)
            except FencedError as error:
                said = str(error)
            finally:
                os.write(writing, said.encode())
                os._exit(0)
        os.waitpid(child, 0)
        assert f"is a fork of {os.getpid()}, which opened the pool" in os.read(reading, 4096).decode()
        assert len(put(pool, hashes)) == len(hashes)

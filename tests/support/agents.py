"""Agents without machines: the worker in a thread of the test, or as a process of its own, talked with as on a bed's host."""

import os
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

from emulation.conformance.agent import Agent
from guest.agent.worker import serve
from guest.errors import CommandError


class WorkerThread:
    """`serve` over two pipes. What ends it is raised by finish()."""

    def __init__(self):
        (self._in, to_worker), (from_worker, self._out) = os.pipe(), os.pipe()
        self.stdin, self.stdout = os.fdopen(to_worker, "wb"), os.fdopen(from_worker, "rb")
        self.read, self.write, self.flush = self.stdout.read, self.stdin.write, self.stdin.flush
        self.failure = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        with os.fdopen(self._in, "rb") as source, os.fdopen(self._out, "wb") as sink:
            try:
                serve(source, sink)
            except Exception as failure:  # noqa: BLE001 - raised again by finish()
                self.failure = failure

    def hang_up(self):
        with suppress(BrokenPipeError):
            self.stdin.close()

    def finish(self):
        self.hang_up()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure


class WorkerProcess:
    """`python -m guest.agent.worker`, found on `path` as well."""

    def __init__(self, path=""):
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has ended
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "guest.agent.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(Path.cwd())])},
        )
        self.stdin, self.stdout = self._popen.stdin, self._popen.stdout
        self.read, self.write, self.flush = self.stdout.read, self.stdin.write, self.stdin.flush

    def hang_up(self):
        with suppress(BrokenPipeError):
            self.stdin.close()

    def finish(self):
        self.hang_up()
        self.stdout.close()
        status = self._popen.wait(120)
        self._stderr.seek(0)
        self.stderr = self._stderr.read().decode()
        self._stderr.close()
        if status:
            raise CommandError("worker", status, self.stderr)


@contextmanager
def agent_in_thread(host="here"):
    worker = WorkerThread()
    agent = Agent(worker, host)
    yield agent
    agent.finish()


@contextmanager
def agent_in_process(host="here", path=""):
    worker = WorkerProcess(path)
    agent = Agent(worker, host)
    agent.worker = worker
    yield agent
    agent.finish()

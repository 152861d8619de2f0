"""One host's part in a check that spans hosts, as a command: messages come on stdin, answers go to stdout.

    python -m guest.agent.worker [--lane NUMBER NONCE]

With --lane long pieces go by memory shared with the testbed (`guest.agent.lane`), without it all goes by the streams.

OPEN names a runtime and a task; POPULATE, FLIP and FETCH do parts of it, CLOSE ends it, and another OPEN may follow. It ends with
0 when stdin does. An error goes to stderr, and its status is the command's. Whatever the runtime prints goes to stderr too, and
it reads nothing of stdin. Knows messages and the contract of a runtime; what is right is for the testbed to say.
"""

import argparse
import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import closing

import numpy as np

from guest.agent.answer import output_message, written_message
from guest.agent.errors import ContractError, MessageError, RequestError
from guest.agent.lane import Lane, LaneSink, LaneSource, guest_region, map_region
from guest.agent.protocol import Array, Kind, Message, Sink, Source, read_message, write_message
from guest.agent.runtime import BitFlipper, LayerInput, Runtime, open_runtime
from guest.agent.task import Task
from sac_runtime.errors import SacError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def serve(source: Source, sink: Sink) -> None:
    """Answer every request of `source` on `sink` until it ends. Raises SacError, and what the runtime raises."""
    while (message := read_message(source)) is not None:
        if message.kind is not Kind.OPEN:
            raise MessageError(f"message {message.kind.name}: came before OPEN, which names runtime and task")
        task = Task.of(message.fields.get("task"))
        name = str(message.fields.get("runtime"))
        with closing(open_runtime(name, task)) as runtime:
            write_message(sink, Message(Kind.DONE))
            OpenTask(task, name, runtime, source, sink).serve()
        write_message(sink, Message(Kind.DONE))


class OpenTask:
    """A task whose runtime is open: does what the messages ask until CLOSE."""

    def __init__(self, task: Task, name: str, runtime: Runtime, source: Source, sink: Sink) -> None:
        self.task = task
        self.name = name
        self.runtime = runtime
        self._source = source
        self._sink = sink

    def serve(self) -> None:
        """Answer requests until CLOSE, which the caller answers when the runtime is closed. Raises MessageError."""
        requests = {Kind.POPULATE: self.populate, Kind.FLIP: self.flip, Kind.FETCH: self.fetch}
        while (message := self._next(Kind.CLOSE, *requests)).kind is not Kind.CLOSE:
            write_message(self._sink, requests[message.kind](message))

    def populate(self, message: Message) -> Message:
        """Have the runtime write a context whose layers follow."""
        layers = self._layers()
        self.runtime.populate(self._tokens(message), layers)
        if unread := sum(1 for _ in layers):
            raise ContractError(
                f"runtime '{self.name}': populate left {unread} of {self.task.num_layers} layers unread"
            )
        return Message(Kind.DONE)

    def flip(self, message: Message) -> Message:
        """Have the runtime spoil what it wrote. Raises RequestError where it cannot."""
        if not isinstance(self.runtime, BitFlipper):
            raise RequestError(f"runtime '{self.name}': offers no flip_bit; run it without a flip")
        task = self.task
        limits = {"layer": task.num_layers, "token": task.context_tokens, "byte": task.kv_layout.row_bytes}
        at = {name: message.number(name, limit) for name, limit in limits.items()}
        self.runtime.flip_bit(self._tokens(message), **at)
        return Message(Kind.DONE)

    def fetch(self, message: Message) -> Message:
        """Have the runtime decode from a context; what the model gives follows, layer by layer, and each layer's output goes
        back at once. Whether it is right is worked out elsewhere: nothing is hashed or kept here."""
        with closing(self.runtime.fetch(self._tokens(message))) as decoding:
            wrong_canaries = decoding.wrong_canaries()
            for step in range(self.task.num_steps):
                for layer in range(self.task.num_layers):
                    output = decoding.attend(layer, self._input(step))
                    write_message(self._sink, output_message(self.task, self.name, step, layer, output))
                decoding.end_step()
            for layer in range(self.task.num_layers):
                write_message(self._sink, written_message(self.task, self.name, layer, decoding.read_back(layer)))
        return Message(Kind.ANSWER, arrays={"wrong_canaries": np.array(wrong_canaries, np.int64)})

    def _tokens(self, message: Message) -> Array:
        return message.array("tokens", "int64", self.task.context_tokens)

    def _layers(self) -> Iterator[Array]:
        for _ in range(self.task.num_layers):
            shape = (self.task.context_tokens, self.task.kv_layout.row_bytes)
            yield self._next(Kind.ROWS).array("rows", "uint8", *shape)

    def _input(self, step: int) -> LayerInput:
        query = self._next(Kind.QUERY)
        return LayerInput(
            scores=query.array("scores", "float32", self.task.context_tokens + step + 1),
            query=query.array("query", "float32", *self.task.query_shape),
            row=query.array("row", "uint8", self.task.kv_layout.row_bytes),
        )

    def _next(self, *kinds: Kind) -> Message:
        """The next message, one of `kinds`. Raises MessageError."""
        message = read_message(self._source)
        names = ", ".join(kind.name for kind in kinds)
        if message is None:
            raise MessageError(f"message: the stream ends where one of {names} must come")
        if message.kind not in kinds:
            raise MessageError(f"message {message.kind.name}: came where one of {names} must come")
        return message


def main() -> int:
    """Serve stdin and stdout. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="guest.agent.worker")
    parser.add_argument("--lane", nargs=2, metavar=("NUMBER", "NONCE"), type=int)
    lane = parser.parse_args().lane
    _keep_freed_memory()
    try:
        with os.fdopen(os.dup(0), "rb") as source, os.fdopen(os.dup(1), "wb") as sink:
            _keep_from_runtime()
            serve(*(_by_lane(source, sink, *lane) if lane else (source, sink)))
    except SacError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


def _keep_freed_memory() -> None:
    """Have malloc keep what numpy frees for its next array: given back, its pages are faulted in anew at every step, which under
    emulation takes several times what is done with them."""
    libc = ctypes.CDLL(None)
    for parameter, size_bytes in ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 1 << 30), (M_TOP_PAD, 64 << 20)):
        libc.mallopt(parameter, size_bytes)


def _by_lane(source: Source, sink: Sink, number: int, nonce: int) -> tuple[Source, Sink]:
    """The streams with a lane beside them. Raises LaneError."""
    lane = Lane.join(map_region(guest_region()), number, nonce)
    return LaneSource(source, lane.to_agent), LaneSink(sink, lane.to_testbed)


def _keep_from_runtime() -> None:
    """Give the process an empty stdin, and stderr for stdout: a print of the runtime's must not stand between messages."""
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)


if __name__ == "__main__":
    sys.exit(main())

"""The agent on one host as the testbed talks with it: every request is a few messages out and one back. Knows the protocol of
`guest.agent`; knows no bed, no truth."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from typing import Protocol

from emulation.errors import MachineError
from guest.agent.answer import Answer
from guest.agent.errors import MessageError
from guest.agent.protocol import Kind, Message, Sink, Source, read_message, write_message
from guest.agent.runtime import LayerInput
from guest.agent.task import Task
from sac_runtime.rows.layout import ByteArray, IntArray


class AgentProcess(Source, Sink, Protocol):
    """A running `python -m guest.agent.worker`: written to and read from. `guest.session.Process` is one."""

    def finish(self) -> object:
        """Wait until it ends. Raises GuestError, with its stderr, if it ends with another status than 0."""
        ...


class Agent:
    """The agent on `host`. Its methods raise GuestError, with the agent's own message, where the agent ends with an error;
    MachineError where its answer is none."""

    def __init__(self, process: AgentProcess, host: str) -> None:
        self._process = process
        self._host = host

    @contextmanager
    def opened(self, task: Task, runtime: str) -> Iterator[None]:
        """A runtime open on the memory of `task`, for the requests of the body."""
        self._ask([Message(Kind.OPEN, {"runtime": runtime, "task": asdict(task)})], Kind.DONE)
        yield
        self._ask([Message(Kind.CLOSE)], Kind.DONE)

    def populate(self, tokens: IntArray, layers: Iterable[ByteArray]) -> None:
        """Write a context. tokens: (T,) int64; layers: the (T, row_bytes) uint8 rows of every layer, taken as they are sent."""
        first = Message(Kind.POPULATE, arrays={"tokens": tokens})
        self._ask(chain([first], (Message(Kind.ROWS, arrays={"rows": rows}) for rows in layers)), Kind.DONE)

    def flip(self, tokens: IntArray, layer: int, token: int, byte: int) -> None:
        """Flip a bit of what was written."""
        where = {"layer": layer, "token": token, "byte": byte}
        self._ask([Message(Kind.FLIP, where, {"tokens": tokens})], Kind.DONE)

    def fetch(self, task: Task, tokens: IntArray, inputs: Iterable[LayerInput]) -> Answer:
        """Decode from a context. inputs: what the model gives each layer of each step, taken as they are sent."""
        first = Message(Kind.FETCH, arrays={"tokens": tokens})
        reply = self._ask(chain([first], (Message(Kind.QUERY, arrays=vars(each)) for each in inputs)), Kind.ANSWER)
        try:
            return Answer.of(task, reply)
        except MessageError as error:
            raise MachineError(f"agent on {self._host}: {error}") from error

    def finish(self) -> None:
        """Wait until the agent has ended well."""
        self._process.finish()

    def _ask(self, messages: Iterable[Message], expected: Kind) -> Message:
        for message in messages:
            if not self._send(message):
                break
        try:
            reply = read_message(self._process)
        except MessageError as error:
            raise MachineError(f"agent on {self._host}: {error}") from error
        if reply is None:
            self._process.finish()
            raise MachineError(f"agent on {self._host}: ended before it answered with {expected.name}")
        if reply.kind is not expected:
            raise MachineError(f"agent on {self._host}: answered with {reply.kind.name}, not with {expected.name}")
        return reply

    def _send(self, message: Message) -> bool:
        """Send one message; False if the agent has ended, of which its status tells more."""
        try:
            write_message(self._process, message)
        except OSError:
            return False
        return True

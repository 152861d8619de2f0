"""The agent on one host as the testbed talks with it: every request is a few messages out and one back. Knows the protocol of
`guest.agent`; knows no bed, no truth."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from typing import Protocol

from emulation.errors import MachineError
from guest.agent.answer import Answer, AnswerDraft
from guest.agent.errors import MessageError
from guest.agent.lane import Lane, LaneSink, LaneSource
from guest.agent.protocol import Kind, Message, Sink, Source, read_message, write_message
from guest.agent.runtime import LayerInput
from guest.agent.task import Task
from guest.session import Process
from sac_runtime.rows.layout import ByteArray, IntArray


class AgentProcess(Source, Sink, Protocol):
    """A running `python -m guest.agent.worker`: written to and read from. `guest.session.Process` is one."""

    def hang_up(self) -> None:
        """End its stdin; what it still says can be read."""
        ...

    def finish(self) -> object:
        """Wait until it ends. Raises GuestError, with its stderr, if it ends with another status than 0."""
        ...


class LaneProcess:
    """An agent's process whose long pieces go by a lane; without one, by its streams like all else."""

    def __init__(self, process: Process, lane: Lane) -> None:
        sink = LaneSink(process, lane.to_agent, process.is_alive)
        self.read = LaneSource(process, lane.to_testbed).read
        self.write, self.flush = sink.write, sink.flush
        self.hang_up, self.finish = process.hang_up, process.finish


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
        messages = chain([first], (Message(Kind.QUERY, arrays=vars(each)) for each in inputs))
        failures: list[Exception] = []
        # Else each side might wait for the other to read. A daemon: an agent that answers with nonsense may never read the rest.
        sending = threading.Thread(target=self._feed, args=(messages, failures), daemon=True)
        sending.start()
        try:
            answer = self._collect(task)
        except MessageError as error:
            raise MachineError(f"agent on {self._host}: {error}") from error
        finally:
            if failures:
                raise failures[0]
        return answer

    def finish(self) -> None:
        """Wait until the agent has ended well."""
        self._process.finish()

    def _collect(self, task: Task) -> Answer:
        """Everything that follows on a FETCH. Raises MessageError where an array does not fit the task."""
        draft = AnswerDraft(task)
        for step in range(task.num_steps):
            for layer in range(task.num_layers):
                draft.note(step, layer, self._reply(Kind.OUTPUT))
        for layer in range(task.num_layers):
            draft.note_written(layer, self._reply(Kind.WRITTEN))
        return draft.finished(self._reply(Kind.ANSWER))

    def _feed(self, messages: Iterable[Message], failures: list[Exception]) -> None:
        """Send beside the reading; what making a message raised is for the reader to raise, who then waits no more."""
        try:
            self._send_all(messages)
        except Exception as error:  # noqa: BLE001 - raised by whoever makes the inputs, and again in `fetch`
            failures.append(error)
            self._process.hang_up()

    def _ask(self, messages: Iterable[Message], expected: Kind) -> Message:
        self._send_all(messages)
        return self._reply(expected)

    def _send_all(self, messages: Iterable[Message]) -> None:
        """Send messages until the agent has ended, of which its status tells more."""
        for message in messages:
            try:
                write_message(self._process, message)
            except OSError:
                return

    def _reply(self, expected: Kind) -> Message:
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

"""Who does what in which order, and what is refused before anything boots. Agents stand where a bed's hosts would."""

import io
from contextlib import contextmanager
from dataclasses import replace

import pytest

from emulation.conformance import run as job
from emulation.conformance.exchange import BitFlip, Exchange, SharedMemory
from emulation.conformance.result import check
from emulation.conformance.truth import Context, JobShape
from emulation.errors import InputError, MachineError
from guest.agent.errors import RequestError
from guest.agent.protocol import Kind, Message, write_message
from qemu_configs.bedfile import load
from sac_runtime.errors import TraceError
from sac_runtime.traces.format import write_trace
from sac_runtime.traces.synthetic import SyntheticSpec, generate
from tests.support.agents import agent_in_thread
from tests.support.exchanges import SHAPE

SMALL = replace(SHAPE, num_layers=1)


def exchanges_in(stores, shape=SMALL, flip=None):
    places = [SharedMemory(store[:6], "a", store, "b", store) for store in stores]
    return [Exchange(Context(shape, n), place, None if n else flip) for n, place in enumerate(places)]


def test_two_agents_exchange_every_context_in_order(tmp_path):
    exchanges = exchanges_in([f"shared:{tmp_path / str(n)}" for n in range(3)], flip=BitFlip(0))
    said = []
    answers = job.exchange_all(exchanges, agent_in_thread, "sac", said.append)
    spoiled, *clean = [check(*each).mismatches for each in zip(exchanges, answers, strict=True)]
    assert spoiled and clean == [[], []]
    assert sum("writes" in line for line in said) == sum("decodes" in line for line in said) == 3


def test_private_and_shared_memory_in_one_job_do_not_wait_for_each_other(tmp_path):
    exchanges = exchanges_in(["numa:0", f"shared:{tmp_path / 'pool'}"])
    hosts = []

    @contextmanager
    def connect(host):
        hosts.append(host)
        with agent_in_thread(host) as agent:
            yield agent

    answers = job.exchange_all(exchanges, connect, "sac", str)
    assert [check(*each).mismatches for each in zip(exchanges, answers, strict=True)] == [[], []]
    assert hosts == ["a"]


def test_a_reader_does_not_wait_for_a_writer_that_failed(tmp_path):
    exchanges = exchanges_in([f"shared:{tmp_path / 'pool'}", "shared:/no such folder/pool"])
    with pytest.raises(Exception, match="cannot be opened: No such file or directory"):
        job.exchange_all(exchanges, agent_in_thread, "sac", str)


def test_a_runtime_that_no_host_has_is_named_with_those_that_it_has(tmp_path):
    with pytest.raises(RequestError, match=r"runtime 'none': is not installed here \(known: .*sac"):
        job.exchange_all(exchanges_in([f"shared:{tmp_path / 'pool'}"]), agent_in_thread, "none", str)


class Scripted:
    """A worker that has written its answers before it is asked."""

    def __init__(self, *messages, raw=b""):
        script = io.BytesIO()
        for message in messages:
            write_message(script, message)
        self.read = io.BytesIO(script.getvalue() + raw).read

    def write(self, piece):
        pass

    def flush(self):
        pass

    def finish(self):
        pass


@pytest.mark.parametrize(
    ("worker", "problem"),
    [
        (Scripted(), "agent on b: ended before it answered with DONE"),
        (Scripted(Message(Kind.CLOSE)), "agent on b: answered with CLOSE, not with DONE"),
        (Scripted(raw=b"Segmentation fault and more"), "agent on b: message: begins with b'Segm'"),
        (Scripted(Message(Kind.DONE), Message(Kind.OUTPUT)), "agent on b: message OUTPUT: has no array 'rows'"),
        (Scripted(Message(Kind.DONE), Message(Kind.ANSWER)), "agent on b: answered with ANSWER, not with OUTPUT"),
    ],
)
def test_an_agent_that_does_not_answer_as_it_must_is_named(worker, problem):
    (exchange,) = exchanges_in(["shared:/nowhere"])
    agent = job.Agent(worker, "b")
    with pytest.raises(MachineError, match=problem), agent.opened(exchange.reader_task, "sac"):
        agent.fetch(exchange.reader_task, exchange.context.token_ids, [])


def test_a_trace_that_does_not_fit_is_refused_before_anything_boots(tmp_path):
    spec = SyntheticSpec.published(SHAPE.context_tokens, SHAPE.top_k, SHAPE.num_layers, seed=99)
    write_trace(tmp_path / "trace", spec.header(), generate(spec, 2))
    with pytest.raises(InputError, match="holds 2 steps; asked for are 3"):
        job.require_usable(replace(SHAPE, trace=tmp_path / "trace"), None)
    with pytest.raises(TraceError, match="none: No such file or directory; name a file that can be read"):
        job.require_usable(replace(SHAPE, trace=tmp_path / "none"), None)


@pytest.mark.parametrize("flip", [BitFlip(3), BitFlip(-1), BitFlip(0, 2000), BitFlip(0, -1), BitFlip(0, 0, 656)])
def test_a_flip_outside_the_context_is_refused(flip):
    job.require_usable(SHAPE, BitFlip(2, 1999, 655))
    with pytest.raises(InputError, match=r"^job: flip=.* lies outside 3 layers of 2000 rows of 656 bytes"):
        job.require_usable(SHAPE, flip)


def test_a_context_too_short_for_published_choices_is_refused_before_anything_boots():
    with pytest.raises(
        InputError, match=r"^job: context_tokens=6000 is too short for top_k=2048: .* at least 4 x top_k"
    ):
        job.require_usable(JobShape(context_tokens=6000), None)


def test_contexts_of_several_writers_are_each_written_by_their_own(tmp_path):
    stores = [f"shared:{tmp_path / str(n)}" for n in range(3)]
    hosts = [("a", "b"), ("c", "c"), ("a", "b")]
    places = [
        SharedMemory(f"m{n}", w, store, r, store) for n, (store, (w, r)) in enumerate(zip(stores, hosts, strict=True))
    ]
    exchanges = [Exchange(Context(SMALL, n), place) for n, place in enumerate(places)]
    asked = []

    @contextmanager
    def connect(host):
        asked.append(host)
        with agent_in_thread(host) as agent:
            yield agent

    answers = job.exchange_all(exchanges, connect, "sac", str)
    assert [check(*each).mismatches for each in zip(exchanges, answers, strict=True)] == [[], [], []]
    assert sorted(asked) == ["a", "b", "c", "c"]


def test_a_bed_whose_memory_is_too_small_is_refused_with_both_sizes():
    with pytest.raises(InputError, match=r"^job: region 'r0' of bed 'direct' holds 1024 MiB, the pool of 61 layers"):
        job.require_fits(load("direct", None), replace(SHAPE, num_layers=61, context_tokens=65536))

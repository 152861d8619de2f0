"""What the worker answers, and what ends it: each message out of place or out of shape by name and status."""

import io
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guest.agent.errors import MessageError, RequestError
from guest.agent.protocol import Kind, Message, read_message, write_message
from guest.agent.worker import serve
from guest.errors import CommandError
from sac_runtime.errors import SacError, StoreNameError
from tests.support.agents import WorkerProcess

TASK = {
    "store": "shared:", "layout": "fp8", "context_tokens": 100, "num_layers": 2, "num_heads": 2, "top_k": 8,
    "capacity": 16, "num_steps": 1, "softmax_scale": 0.1,
}  # fmt: skip
TOKENS = {"tokens": np.arange(100)}
CLOSE = Message(Kind.CLOSE)


def rows(num_tokens=100):
    return Message(Kind.ROWS, {}, {"rows": np.zeros((num_tokens, 656), np.uint8)})


def opening(tmp_path, runtime="sac", **changes):
    return Message(Kind.OPEN, {"runtime": runtime, "task": {**TASK, "store": f"shared:{tmp_path / 'pool'}", **changes}})


def served(*messages, cut_bytes=0):
    """The kinds of what a worker answered to `messages`, the last cut short by `cut_bytes`."""
    request, answers = io.BytesIO(), io.BytesIO()
    for message in messages:
        write_message(request, message)
    serve(io.BytesIO(request.getvalue()[: len(request.getvalue()) - cut_bytes]), answers)
    answers.seek(0)
    return [answer.kind for answer in iter(lambda: read_message(answers), None)]


def test_each_request_has_one_answer_and_rows_have_none(tmp_path):
    populate = [Message(Kind.POPULATE, {}, TOKENS), rows(), rows()]
    flip = Message(Kind.FLIP, {"layer": 1, "token": 99, "byte": 655}, TOKENS)
    assert served(opening(tmp_path), *populate, flip, CLOSE, opening(tmp_path), CLOSE) == [Kind.DONE] * 6
    assert served() == []


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([CLOSE], "message CLOSE: came before OPEN, which names runtime and task"),
        ([Message(Kind.POPULATE, {}, TOKENS), rows(), CLOSE], "message CLOSE: came where one of ROWS must come"),
        ([Message(Kind.POPULATE, {}, TOKENS), rows()], "message: the stream ends where one of ROWS must come"),
        (
            [Message(Kind.POPULATE, {}, TOKENS), rows(99)],
            r"array 'rows' is uint8 of shape \(99, 656\); it must be uint8",
        ),
        ([Message(Kind.POPULATE)], "message POPULATE: has no array 'tokens'"),
        ([rows()], "message ROWS: came where one of CLOSE, POPULATE, FLIP, FETCH must come"),
        (
            [Message(Kind.FLIP, {"layer": 2, "token": 0, "byte": 0}, TOKENS)],
            "layer=2 must be a whole number from 0 to 1",
        ),
        ([], "message: the stream ends where one of CLOSE"),
    ],
)
def test_a_message_out_of_place_or_shape_is_refused_by_name(tmp_path, messages, problem):
    first = [] if messages == [CLOSE] else [opening(tmp_path)]
    with pytest.raises(MessageError, match=problem) as refused:
        served(*first, *messages)
    assert refused.value.exit_status == 2


def test_a_request_that_is_cut_off_is_refused(tmp_path):
    with pytest.raises(MessageError, match="ends 10 bytes too early, within the array 'rows'"):
        served(opening(tmp_path), Message(Kind.POPULATE, {}, TOKENS), rows(), cut_bytes=10)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_layers": 0}, "task: num_layers=0 must be a whole number of at least 1"),
        ({"top_k": "8"}, "task: top_k='8' must be a whole number"),
        ({"layout": "int4"}, "task: layout='int4' must be one of fp8, bf16"),
        ({"store": 3}, "task: store=3"),
        ({"colour": "red"}, "task: must have exactly the fields capacity, context_tokens"),
    ],
)
def test_a_task_that_cannot_be_is_refused_by_field(tmp_path, changes, problem):
    with pytest.raises(RequestError, match=problem):
        served(opening(tmp_path, **changes))


@pytest.mark.parametrize("task", [None, [], {}, "task"])
def test_an_opening_without_a_task_is_refused(task):
    with pytest.raises(RequestError, match="task: must have exactly the fields"):
        served(Message(Kind.OPEN, {"runtime": "sac", "task": task}))


@pytest.mark.parametrize("store", ["disk:/x", "numa:", "numa:one", ""])
def test_a_store_of_another_kind_is_refused(tmp_path, store):
    with pytest.raises(
        StoreNameError, match=f"store='{store}' is none of anonymous, shared:PATH, dax:PATH or numa:NODE"
    ):
        served(opening(tmp_path, store=store))


FIELDS = st.fixed_dictionaries(
    {}, optional={"layer": st.integers(-1, 3), "token": st.integers(-1, 101), "byte": st.integers(-1, 700)}
)
ARRAYS = st.fixed_dictionaries(
    {}, optional={"tokens": st.just(TOKENS["tokens"]), "rows": st.just(np.zeros((100, 656), np.uint8))}
)


@given(st.lists(st.builds(Message, st.sampled_from(Kind), FIELDS, ARRAYS), max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_messages_in_any_order_are_answered_or_refused_by_a_named_error(tmp_path, messages):
    with suppress(SacError):
        answers = served(opening(tmp_path), *messages)
        assert set(answers) == {Kind.DONE}


STRANGERS = """
import os, sys
class Quiet:
    def populate(self, tokens, layers): list(layers)
    def fetch(self, tokens): ...
    def close(self): os.write(1, b'written past Python')
def loud(task): print('printed', flush=True); return Quiet()
def hungry(task): print('read', len(sys.stdin.read()), flush=True); return Quiet()
"""


@pytest.mark.parametrize(("runtime", "printed"), [("loud", "printed\n"), ("hungry", "read 0\n")])
def test_a_runtime_neither_writes_nor_reads_between_the_messages(tmp_path, runtime, printed):
    (tmp_path / "strangers.py").write_text(STRANGERS)
    worker = WorkerProcess(path=tmp_path)
    first = opening(tmp_path, runtime=f"strangers:{runtime}")
    for message in (first, Message(Kind.POPULATE, {}, TOKENS), rows(), rows(), CLOSE):
        write_message(worker, message)
    assert [read_message(worker).kind for _ in range(3)] == [Kind.DONE] * 3
    worker.finish()
    assert worker.stderr == printed + "written past Python"


def test_an_error_ends_the_command_with_its_status_and_message_and_no_traceback(tmp_path):
    worker = WorkerProcess()
    write_message(worker, opening(tmp_path, runtime="none"))
    assert read_message(worker) is None
    with pytest.raises(CommandError, match="runtime 'none': is not installed here") as ended:
        worker.finish()
    assert ended.value.status == 2
    assert "Traceback" not in worker.stderr

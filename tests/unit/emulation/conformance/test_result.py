"""The check of an answer: every kind of wrong answer is noticed, and what a run writes for machines is what its schema says."""

import json
from dataclasses import asdict, fields, replace

import jsonschema
import numpy as np
import pytest

from emulation.conformance.exchange import task_of
from emulation.conformance.relative import replay_fetches, replay_setting
from emulation.conformance.result import RunResult, check
from emulation.latency.replayed import Recording, replay, tier_paths
from emulation.schemas import SCHEMAS
from guest.agent.answer import Answer, AnswerDraft, digests, output_message
from guest.agent.errors import MessageError
from guest.agent.protocol import Kind, Message
from guest.agent.runtime import LayerOutput
from tests.support.exchanges import SHAPE, exchanged


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """An exchange and its right answer."""
    return exchanged(tmp_path_factory.mktemp("exchange"))


def altered(answer, change):
    """The answer with its arrays changed, as a broken runtime would give them."""
    arrays = {field.name: getattr(answer, field.name).copy() for field in fields(answer)}
    change(arrays)
    return Answer(**arrays)


@pytest.mark.parametrize(
    ("change", "mismatch"),
    [
        (lambda a: a["attention"][1, 2, 0].__iadd__(1e-3), "step 1, layer 2: attention is off by 0.001"),
        (lambda a: a["attention"][0, 0].__setitem__((0, 0), np.nan), "step 0, layer 0: attention is off by inf"),
        (lambda a: a["positions"][2, 1].__iadd__(1), "step 2, layer 1, row "),
        (lambda a: a["digests"].__setitem__((0, 1), a["digests"][0, 0]), "step 0, layer 1, row "),
        (lambda a: a["written"][1, 0].__setitem__(0, 255 - a["written"][1, 0, 0]), "was not written back as it is"),
        (lambda a: a.__setitem__("wrong_canaries", np.array([2])), "layer 2: its canary is not where the reader looks"),
    ],
)
def test_the_check_notices_every_kind_of_wrong_answer(clean, change, mismatch):
    exchange, answer = clean
    assert check(exchange, answer).mismatches == []
    mismatches = check(exchange, altered(answer, change)).mismatches
    assert any(mismatch in sentence for sentence in mismatches), mismatches


def test_an_output_travels_as_it_is_and_one_that_does_not_fit_the_task_is_refused():
    task = replace(task_of(SHAPE, "shared:/nowhere"), num_steps=1, num_layers=1)
    rows = np.arange(128 * 656, dtype=np.int64).astype(np.uint8).reshape(128, 656)
    attention = np.ones((2, 512), np.float32)
    message = output_message(task, "sac", 0, 0, LayerOutput(np.arange(128), rows, attention, np.arange(5)))
    draft = AnswerDraft(task)
    draft.note(0, 0, message)
    draft.note_written(0, Message(Kind.WRITTEN, {}, {"rows": rows[:1]}))
    answer = draft.finished(Message(Kind.ANSWER, {}, {"wrong_canaries": np.array([3])}))
    assert np.array_equal(answer.digests[0, 0], digests(rows))
    assert np.array_equal(answer.written[0], digests(rows[:1]))
    assert answer.miss_tokens.tolist() == [0, 1, 2, 3, 4]
    assert answer.wrong_canaries.tolist() == [3]
    with pytest.raises(
        MessageError, match=r"array 'rows' is uint8 of shape \(128, 656\); it must be uint8 of shape \(64, "
    ):
        AnswerDraft(replace(task, top_k=64)).note(0, 0, message)
    for name in message.arrays:
        rest = {other: array for other, array in message.arrays.items() if other != name}
        with pytest.raises(MessageError, match=f"message OUTPUT: has no array '{name}'"):
            AnswerDraft(task).note(0, 0, Message(Kind.OUTPUT, {}, rest))


def run_result(exchange, answer):
    result = check(exchange, answer)
    recording = Recording(result.misses.astype(np.int64), SHAPE.context_tokens, SHAPE.top_k, SHAPE.layout)
    paths = tier_paths()
    replays, setting = replay(recording, paths), replay_setting(paths, SHAPE)
    return RunResult("shared-pool", "tcg", 1.5, not result.mismatches, [result.record()], setting, replays)


def test_what_a_run_writes_is_what_its_schema_says(clean):
    written = json.loads(json.dumps(asdict(run_result(*clean))))
    jsonschema.validate(written, SCHEMAS["run"]())
    written["stores"][0]["fetched_rows"] = "many"
    with pytest.raises(jsonschema.ValidationError, match="'many' is not of type 'integer'"):
        jsonschema.validate(written, SCHEMAS["run"]())


def test_the_fields_of_a_run_and_their_order_are_what_readers_of_it_know(clean):
    written = asdict(run_result(*clean))
    assert list(written) == ["topology", "accelerator", "ready_s", "right", "stores", "setting", "relative_latency"]
    assert list(written["stores"][0]) == [
        "place", "fetched_rows", "fetched_bytes", "fetched_lines", "entries", "entries_right", "attention_error",
        "mismatches", "misses", "label",
    ]  # fmt: skip
    assert list(written["stores"][0]["place"]) == [
        "name",
        "writer",
        "writer_store",
        "reader",
        "reader_store",
        "devices",
    ]


def test_an_output_that_is_no_number_is_written_as_null(clean):
    exchange, answer = clean
    broken = altered(answer, lambda arrays: arrays["attention"].__setitem__((0, 0, 0, 0), np.nan))
    assert run_result(exchange, broken).stores[0].attention_error is None
    assert "NaN" not in json.dumps(asdict(run_result(exchange, broken)))


def test_a_trace_that_all_memories_replay_counts_once(clean, tmp_path):
    exchange, answer = clean
    results = [check(exchange, answer)] * 3
    paths = tier_paths()
    own, traced = (
        replay_fetches(paths, shape, results) for shape in (SHAPE, replace(SHAPE, trace=tmp_path / "one.trace"))
    )
    assert own[0].rows == 3 * traced[0].rows
    assert own[0].prefix_bytes == 3 * traced[0].prefix_bytes
    assert traced[0].rows == int(results[0].misses.sum())

"""Contexts written by one agent and fetched by another over a shared file, without machines, checked as on a bed."""

from dataclasses import replace

import numpy as np
import pytest

from emulation.conformance.exchange import BitFlip, Exchange
from emulation.conformance.result import check
from emulation.conformance.truth import Context
from guest.agent.errors import ContractError, RequestError
from guest.errors import CommandError
from sac_runtime.errors import StoreError
from sac_runtime.traces.format import write_trace
from sac_runtime.traces.synthetic import SyntheticSpec, generate
from tests.support.agents import agent_in_process, agent_in_thread
from tests.support.exchanges import SHAPE, exchanged

PLAIN = "tests.support.plain_runtime"


@pytest.mark.parametrize("rows", ["fp8", "bf16"])
def test_what_one_process_writes_another_fetches_byte_for_byte(tmp_path, rows):
    shape = replace(SHAPE, rows=rows)
    result = check(*exchanged(tmp_path, shape, agent=agent_in_process))
    assert result.mismatches == []
    assert result.entries_right == result.entries == 3 * 3 * 128
    assert result.fetched_bytes == result.fetched_rows * shape.layout.row_bytes
    assert 3 * 127 < result.fetched_rows < 3 * 3 * 128, "later steps find part of their rows in the hot buffer"
    assert len(result.miss_tokens) == result.fetched_rows
    assert 0 < result.attention_error < 1e-4


def test_a_recorded_trace_is_replayed_instead_of_generated_choices(tmp_path):
    spec = SyntheticSpec.published(SHAPE.context_tokens, SHAPE.top_k, SHAPE.num_layers, seed=99)
    write_trace(tmp_path / "trace", spec.header(), generate(spec, SHAPE.num_steps))
    assert check(*exchanged(tmp_path, replace(SHAPE, trace=tmp_path / "trace"))).mismatches == []


def test_a_flipped_bit_is_named_by_layer_and_row(tmp_path):
    exchange, answer = exchanged(tmp_path, flip=BitFlip(layer=1))
    result = check(exchange, answer)
    row = exchange.context.topk[0].tokens(1)[0]
    assert result.mismatches[0].startswith(f"step 0, layer 1, row {row}: ")
    assert not any("layer 0" in mismatch or "layer 2" in mismatch for mismatch in result.mismatches)


def test_a_byte_spoiled_behind_every_back_is_noticed(tmp_path):
    exchange, clean = exchanged(tmp_path)
    raw = bytearray((tmp_path / "pool").read_bytes())
    row = exchange.context.rows(0)[exchange.context.topk[0].tokens(0)[5]].tobytes()
    at = raw.find(row)
    assert at > 0 and raw.find(row, at + 1) < 0, "the row lies in the file as it was written, once"

    def spoil(path):
        spoiled = bytearray(path.read_bytes())
        spoiled[spoiled.find(row) + 100] ^= 0x40
        path.write_bytes(spoiled)

    (tmp_path / "again").mkdir()
    result = check(*exchanged(tmp_path / "again", spoil=spoil))
    assert {mismatch.split(",")[1].split(":")[0] for mismatch in result.mismatches} == {" layer 0"}
    assert check(exchange, clean).mismatches == []


def test_a_reader_of_tokens_that_nobody_wrote_says_so(tmp_path):
    exchange, _ = exchanged(tmp_path)
    strange = Exchange(Context(replace(SHAPE, seed=8), 0), exchange.place)
    with (
        pytest.raises(
            StoreError, match=r"holds 0 of the 32 blocks of this context; has it been populated\?"
        ) as refused,
        agent_in_thread() as agent,
        agent.opened(strange.reader_task, "sac"),
    ):
        agent.fetch(strange.reader_task, strange.context.token_ids, [])
    assert refused.value.exit_status == 3


def test_a_runtime_of_strangers_goes_through_the_same_worker_and_is_right(tmp_path):
    result = check(*exchanged(tmp_path, runtime=PLAIN, agent=agent_in_process))
    assert result.mismatches == []
    assert result.entries_right == result.entries == 3 * 3 * 128
    assert result.misses.min() == 128, "it keeps no buffer: every entry of every step is fetched"


@pytest.mark.parametrize(
    ("fault", "layers", "problem"),
    [
        ("layers_exchanged", {" layer 0", " layer 2"}, "its bytes are not those that were written"),
        ("new_row_forgotten", {" layer 0", " layer 1", " layer 2"}, "was not written back as it is"),
        ("one_entry_off", {" layer 0", " layer 1", " layer 2"}, "attention is off by"),
    ],
)
def test_wrong_bytes_of_a_runtime_of_strangers_are_noticed_where_they_are(tmp_path, fault, layers, problem):
    mismatches = check(*exchanged(tmp_path, runtime=f"{PLAIN}:{fault}")).mismatches
    assert {mismatch.split(":")[0].split(",")[1] for mismatch in mismatches} == layers
    assert any(problem in mismatch for mismatch in mismatches), mismatches


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("offers_nothing", "offers no populate, no fetch, no close; see guest/agent/runtime.py"),
        (
            "one_head",
            r"attention of step 0, layer 0 is float32 of shape \(1, 512\); it must be float32 of shape \(2, 512\)",
        ),
        ("stops_early", "populate left 2 of 3 layers unread"),
    ],
)
def test_a_runtime_that_breaks_its_contract_is_told_where(tmp_path, fault, problem):
    with pytest.raises(ContractError, match=f"^runtime '{PLAIN}:{fault}': {problem}"):
        exchanged(tmp_path, runtime=f"{PLAIN}:{fault}")


def test_a_runtime_that_cannot_spoil_what_it_wrote_is_not_asked_to(tmp_path):
    with pytest.raises(RequestError, match="offers no flip_bit; run it without a flip"):
        exchanged(tmp_path, runtime=PLAIN, flip=BitFlip(0))


def test_an_exception_of_a_runtime_ends_its_process_with_the_traceback_on_stderr(tmp_path):
    (tmp_path / "pool").mkdir()
    np.save(tmp_path / "pool" / "tokens.npy", np.arange(3))
    exchange, _ = exchanged(tmp_path, runtime=PLAIN)
    strange = Exchange(Context(replace(SHAPE, seed=8), 0), exchange.place)
    with (
        pytest.raises(CommandError, match="ValueError: another context") as refused,
        agent_in_process() as agent,
        agent.opened(strange.reader_task, PLAIN),
    ):
        agent.fetch(strange.reader_task, strange.context.token_ids, [])
    assert refused.value.status == 1

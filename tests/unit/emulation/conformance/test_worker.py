"""The main job without machines: its workers as two processes over one shared file, judged by the same judge."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from emulation.conformance import run as job
from emulation.conformance.exchange import BitFlip, Exchange, SharedMemory
from emulation.conformance.result import check
from emulation.conformance.truth import Context, JobShape
from emulation.errors import InputError
from guest.agent.worker import split_replies
from sac_runtime.traces.format import write_trace
from sac_runtime.traces.synthetic import SyntheticSpec, generate

SHAPE = JobShape(context_tokens=2000, num_layers=3, num_heads=2, top_k=128, num_steps=3, hot_buffer=140, seed=7)


def work(tasks, pieces, check=True):
    ended = subprocess.run(
        [sys.executable, "-m", "guest.agent.worker", json.dumps(tasks)], input=b"".join(pieces), capture_output=True
    )
    if check:
        assert ended.returncode == 0, ended.stderr.decode()
    return ended


def exchanged(tmp_path, shape=SHAPE, flip=None, spoil=None):
    """Write and fetch one context by two processes; `spoil` may change the store's file in between."""
    store = f"shared:{tmp_path / 'pool'}"
    share = Exchange(Context(shape, 0), SharedMemory("p", "writer", store, "reader", store), flip)
    work(share.writing(), share.to_write(str))
    for _ in share.writing():
        share.written.release()
    if spoil:
        spoil(tmp_path / "pool")
    (reply,) = split_replies(work(share.reading(), share.questions(str)).stdout)
    return share, reply


@pytest.mark.parametrize("rows", ["fp8", "bf16"])
def test_what_one_process_writes_another_fetches_byte_for_byte(tmp_path, rows):
    verdict = check(*exchanged(tmp_path, replace(SHAPE, rows=rows)))
    assert verdict.mismatches == []
    assert verdict.entries_right == verdict.entries == 3 * 3 * 128
    assert verdict.fetched_bytes == verdict.fetched_rows * replace(SHAPE, rows=rows).layout.row_bytes
    assert 3 * 127 < verdict.fetched_rows < 3 * 3 * 128, "later steps find part of their rows in the hot buffer"
    assert len(verdict.miss_tokens) == verdict.fetched_rows
    assert 0 < verdict.attention_error < 1e-4


def test_a_recorded_trace_is_replayed_instead_of_generated_choices(tmp_path):
    spec = SyntheticSpec.published(SHAPE.context_tokens, SHAPE.top_k, SHAPE.num_layers, seed=99)
    write_trace(tmp_path / "trace", spec.header(), generate(spec, SHAPE.num_steps))
    share, reply = exchanged(tmp_path, replace(SHAPE, trace=tmp_path / "trace"))
    assert check(share, reply).mismatches == []
    assert np.array_equal(share.context.topk[2].tokens(1), list(generate(spec, 3))[2].tokens(1))
    with pytest.raises(InputError, match="holds 2000 tokens, top-k 128, 3 layers; asked for are 2000, 64, 3"):
        Context(replace(SHAPE, trace=tmp_path / "trace", top_k=64), 0).topk  # noqa: B018


def test_a_trace_that_does_not_fit_is_refused_before_anything_boots(tmp_path):
    spec = SyntheticSpec.published(SHAPE.context_tokens, SHAPE.top_k, SHAPE.num_layers, seed=99)
    write_trace(tmp_path / "trace", spec.header(), generate(spec, 2))
    with pytest.raises(InputError, match="holds 2 steps; asked for are 3"):
        job.require_usable(replace(SHAPE, trace=tmp_path / "trace"), None)
    with pytest.raises(InputError, match="none: cannot be read"):
        job.require_usable(replace(SHAPE, trace=tmp_path / "none"), None)


@pytest.mark.parametrize("flip", [BitFlip(3), BitFlip(-1), BitFlip(0, 2000), BitFlip(0, -1), BitFlip(0, 0, 656)])
def test_a_flip_outside_the_context_is_refused(flip):
    job.require_usable(SHAPE, BitFlip(2, 1999, 655))
    with pytest.raises(InputError, match="lies outside 3 layers of 2000 rows of 656 bytes"):
        job.require_usable(SHAPE, flip)


def test_a_hot_buffer_below_top_k_is_refused():
    with pytest.raises(InputError, match="hot_buffer=100 must be at least top_k=128"):
        replace(SHAPE, hot_buffer=100)


def test_private_and_shared_memory_in_one_job_do_not_wait_for_each_other(tmp_path, monkeypatch):
    def here(_bed, _host, tasks, request):
        return split_replies(work(tasks, request).stdout)

    monkeypatch.setattr(job, "_work", here)
    stores = ("numa:0", f"shared:{tmp_path / 'pool'}")
    small = replace(SHAPE, num_layers=1)
    shares = [Exchange(Context(small, n), SharedMemory(s, "a", s, "a", s), None) for n, s in enumerate(stores)]
    replies = job._exchange(None, shares, str)
    assert [check(share, reply).mismatches for share, reply in zip(shares, replies, strict=True)] == [[], []]


def test_scores_choose_exactly_the_top_k_and_are_in_no_order():
    context = Context(SHAPE, 0)
    scores = context.scores(1, 2)
    assert np.array_equal(np.sort(np.argsort(-scores, kind="stable")[:128]), context.topk[1].tokens(2))
    assert abs(np.corrcoef(np.arange(scores.size), scores)[0, 1]) < 0.2


def test_rows_that_no_step_chooses_are_poison_and_the_others_are_not():
    context = Context(SHAPE, 0)
    poisoned = (context.rows(0) == 0xFF).all(axis=1)
    chosen = {token for step in context.topk for token in step.tokens(0).tolist()}
    assert set(np.flatnonzero(~poisoned).tolist()) == chosen | {2000, 2001, 2002}


def test_a_flipped_bit_is_named_by_layer_and_row(tmp_path):
    share, reply = exchanged(tmp_path, flip=BitFlip(layer=1))
    verdict = check(share, reply)
    row = share.context.topk[0].tokens(1)[0]
    assert verdict.mismatches[0].startswith(f"step 0, layer 1, row {row}: ")
    assert not any("layer 0" in mismatch or "layer 2" in mismatch for mismatch in verdict.mismatches)


def test_a_byte_spoiled_behind_every_back_is_noticed(tmp_path):
    share, clean = exchanged(tmp_path)
    raw = bytearray((tmp_path / "pool").read_bytes())
    row = share.context.rows(0)[share.context.topk[0].tokens(0)[5]].tobytes()
    at = raw.find(row)
    assert at > 0 and raw.find(row, at + 1) < 0, "the row lies in the file as it was written, once"

    def spoil(path):
        spoiled = bytearray(path.read_bytes())
        spoiled[spoiled.find(row) + 100] ^= 0x40
        path.write_bytes(spoiled)

    (tmp_path / "again").mkdir()
    verdict = check(*exchanged(tmp_path / "again", spoil=spoil))
    assert {mismatch.split(",")[1] for mismatch in verdict.mismatches} == {" layer 0"}
    assert check(share, clean).mismatches == []


def altered(reply, change):
    """The reply with its arrays changed, as a broken runtime would send them."""
    import io

    with np.load(io.BytesIO(reply)) as archive:
        arrays = dict(archive)
    change(arrays)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a["attention"][1, 2, 0].__iadd__(1e-3), "step 1, layer 2: attention is off by 0.001"),
        (lambda a: a["attention"][0, 0].__setitem__((0, 0), np.nan), "step 0, layer 0: attention is off by inf"),
        (lambda a: a["positions"][2, 1].__iadd__(1), "step 2, layer 1, row "),
        (lambda a: a["digests"].__setitem__((0, 1), a["digests"][0, 0]), "step 0, layer 1, row "),
        (lambda a: a["written"][1, 0].__setitem__(0, 255 - a["written"][1, 0, 0]), "was not written back as it is"),
        (lambda a: a.__setitem__("wrong_canaries", np.array([2])), "layer 2: its canary is not where the reader looks"),
    ],
)
def test_the_judge_notices_every_kind_of_wrong_reply(tmp_path, change, said):
    share, reply = exchanged(tmp_path)
    mismatches = check(share, altered(reply, change)).mismatches
    assert any(said in mismatch for mismatch in mismatches), mismatches


def test_a_reader_of_tokens_that_nobody_wrote_says_so(tmp_path):
    share, _ = exchanged(tmp_path)
    strange = Exchange(Context(replace(SHAPE, seed=8), 0), share.place, None)
    ended = work(strange.reading(), [strange.context.token_ids.tobytes()], check=False)
    assert ended.returncode == 3
    assert b"holds 0 of the 32 blocks of this context; has it been populated?" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_a_request_that_ends_too_early_is_refused(tmp_path):
    share, _ = exchanged(tmp_path)
    ended = work(share.reading(), [share.context.token_ids.tobytes(), b"scores"], check=False)
    assert ended.returncode == 2
    assert b"bytes too early" in ended.stderr

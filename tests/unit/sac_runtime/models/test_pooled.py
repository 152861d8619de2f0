"""Pooled models beside the untouched ones: tokens, logits, choices; and what they leave behind."""

from contextlib import ExitStack

import pytest
import torch
from transformers import DynamicCache

from sac_runtime.errors import PoolFullError, TraceError
from sac_runtime.fetch.residency import Residency
from sac_runtime.models.pooled import pooled, weights_digest
from sac_runtime.models.tiny import tiny_model
from sac_runtime.pool.arena import BlockState
from sac_runtime.rows.layout import KvLayout
from sac_runtime.rows.quantise import pack_rows, unpack_rows
from sac_runtime.traces.format import TraceReader
from sac_runtime.traces.replay import PlanOnly, Replay


def test_tokens_and_logits_are_those_of_the_untouched_model(untouched, make_pool):
    with pooled(untouched.model, make_pool(untouched), capacity=untouched.capacity) as session:
        untouched.assert_same(*untouched.greedy())
    for counters in session.counters:
        fetched_again = counters.misses - counters.compulsory  # each of a token that had been evicted
        assert counters.steps == len(untouched.lengths) * (untouched.new_tokens - 1)
        assert fetched_again > 500


def test_a_prompt_that_is_in_the_pool_is_not_computed_again(untouched, make_pool):
    pool = make_pool(untouched)
    with pooled(untouched.model, pool) as session:
        untouched.greedy(new_tokens=1)
        assert session.reused_tokens == 0
    with pooled(untouched.model, pool, capacity=untouched.capacity) as session:
        untouched.assert_same(*untouched.greedy())
    # Blocks hold 96, 32 and 0 tokens of the prompts; of the 100 columns the first 88 are in the pool for all three.
    assert session.reused_tokens == 88 + 28


def test_two_models_share_a_pool_and_neither_takes_the_others_rows(references, make_pool):
    pool = make_pool(references["deepseek_v32"], blocks=96)
    with ExitStack() as resources:
        sessions = [resources.enter_context(pooled(each.model, pool, capacity=33)) for each in references.values()]
        for each in references.values():
            each.assert_same(*each.greedy())
    assert [session.reused_tokens for session in sessions] == [0, 0]
    assert pool.num_published == 2 * 20


def test_models_of_other_weights_have_other_names_for_their_blocks(references):
    digests = {weights_digest(each.model) for each in references.values()}
    digests.add(weights_digest(tiny_model("deepseek_v32", seed=1)))
    assert len(digests) == 3
    assert weights_digest(tiny_model("deepseek_v32")) in digests


def chooses_fewer(model):
    model.config.index_topk = 16
    for layer in model.model.layers:
        layer.self_attn.indexer.index_topk = 16


def scales_its_experts_less(model):
    model.config.routed_scaling_factor = 0.3


def corrects_its_router(model):
    dict(model.named_buffers())["model.layers.1.mlp.gate.e_score_correction_bias"][3] += 1


def has_one_weight_changed(model):
    model.model.layers[0].self_attn.kv_a_proj_with_mqa.weight.data[3, 5] += 5  # between the sampled places


@pytest.mark.parametrize(
    "change", [chooses_fewer, scales_its_experts_less, corrects_its_router, has_one_weight_changed]
)
def test_a_model_that_would_make_other_rows_has_another_name(change):
    model = tiny_model("deepseek_v32")
    before = weights_digest(model)
    change(model)
    assert weights_digest(model) != before


def test_a_run_that_fails_leaves_a_trace_that_is_refused(deepseek, make_pool, tmp_path):
    path = tmp_path / "failed.trace"
    with pytest.raises(ZeroDivisionError), pooled(deepseek.model, make_pool(deepseek), trace_path=path):
        deepseek.greedy(8)
        raise ZeroDivisionError
    with pytest.raises(TraceError, match="without an end record"):
        list(TraceReader(path))


class RoundingCache(DynamicCache):
    """transformers' own cache, whose rows have been through a row format: an oracle of equal precision."""

    def __init__(self, config, layout):
        super().__init__(config=config)
        self.layout = layout

    def update(self, latents, ropes, layer_idx, *args, **kwargs):
        rounded = [
            unpack_rows(self.layout, pack_rows(self.layout, latent[0].numpy(), rope[0].numpy()))
            for latent, rope in zip(latents, ropes, strict=True)
        ]
        kept = [torch.stack([torch.tensor(row[part]) for row in rounded]).unsqueeze(1) for part in (0, 1)]
        everything = super().update(*kept, layer_idx, *args, **kwargs)
        return everything if latents.shape[2] == 1 else (latents, ropes)  # prefill attends over what it just made


@pytest.mark.parametrize(
    ("layout", "tolerance"),
    # fp32 noise of 1e-7 now and then rounds a value to its other neighbour, 2^-8 (bf16) or 2^-3 (e4m3) of it away.
    [(KvLayout.bf16(), 2e-3), (KvLayout.fp8(), 5e-3)],
    ids=["bf16", "fp8"],
)
def test_rows_of_fewer_bytes_equal_the_model_with_its_cache_rounded_so(deepseek, make_pool, layout, tolerance):
    rounding = RoundingCache(deepseek.model.config, layout)
    expected_tokens, expected_logits = deepseek.greedy(32, **{deepseek.cache: rounding})
    with pooled(deepseek.model, make_pool(deepseek, layout), capacity=deepseek.capacity):
        tokens, logits = deepseek.greedy(32)
    assert torch.equal(tokens, expected_tokens)
    assert float((logits - expected_logits).abs().max()) < tolerance
    assert (
        deepseek.deviation(expected_logits[:2]) > 10 * tolerance
    )  # the rounding itself is felt, from the second token on


def test_a_model_in_bf16_makes_the_same_of_a_prompt_from_the_pool(deepseek, make_pool):
    half = type(deepseek)(tiny_model("deepseek_v32").bfloat16(), deepseek.inputs)
    pool = make_pool(half, KvLayout.bf16())
    runs = []
    for reused_tokens in (0, 88 + 28):
        with pooled(half.model, pool, capacity=half.capacity) as session:
            runs.append(half.greedy(8)[1])
        assert session.reused_tokens == reused_tokens
    assert torch.equal(*runs)


@pytest.mark.parametrize("residency", [Residency.FULL_PREFIX, Residency.RESIDENT])
def test_the_other_ways_to_hold_kv_give_the_same_tokens(deepseek, make_pool, residency):
    with pooled(deepseek.model, make_pool(deepseek), capacity=deepseek.capacity, residency=residency) as session:
        deepseek.assert_same(*deepseek.greedy())
    assert all((counters.misses == 0) == (residency is Residency.RESIDENT) for counters in session.counters)


def test_a_prompt_may_come_in_chunks_and_a_sequence_go_on(deepseek, make_pool):
    with pooled(deepseek.model, make_pool(deepseek), capacity=deepseek.capacity):
        deepseek.assert_same(*deepseek.greedy(16, prefill_chunk_size=30))
        begun = deepseek.model.generate(
            **deepseek.inputs, max_new_tokens=8, do_sample=False, return_dict_in_generate=True
        )
        mask = torch.nn.functional.pad(deepseek.inputs["attention_mask"], (0, 12), value=1)
        tokens, _ = deepseek.greedy(
            4, input_ids=deepseek.tokens[:, :112], attention_mask=mask, **{deepseek.cache: begun[deepseek.cache]}
        )
    assert torch.equal(tokens, deepseek.tokens[:, :116])


def test_a_forward_that_wants_all_logits_gets_them_with_its_prompt_in_the_pool(deepseek, make_pool):
    inputs = {"input_ids": deepseek.inputs["input_ids"][:1]}
    with torch.no_grad():
        expected = deepseek.model(**inputs).logits
        with pooled(deepseek.model, make_pool(deepseek)):
            for options in ({}, {}, {"use_cache": False}):
                logits = deepseek.model(**inputs, **options).logits
                assert logits.shape == expected.shape
                assert (logits - expected).abs().max() < deepseek.tolerance


def choices_of_untouched(untouched, new_tokens):
    """Layer -> of each forward the columns that the indexer chose for the last query, (batch, k)."""
    chosen = {}
    with ExitStack() as hooks:
        for layer in untouched.model.model.layers:
            if layer.self_attn.indexer is not None:
                hook = layer.self_attn.indexer.register_forward_hook(
                    lambda module, args, output: chosen.setdefault(module.layer_idx, []).append(output[:, -1])
                )
                hooks.callback(hook.remove)
        untouched.greedy(new_tokens)
    return chosen


def test_a_recorded_trace_holds_what_the_untouched_model_chooses(untouched, make_pool, tmp_path):
    with pooled(untouched.model, make_pool(untouched), trace_path=tmp_path / "run.trace"):
        untouched.greedy(21)
        untouched.greedy(2)  # a second generate() is not in the trace
    trace = TraceReader(tmp_path / "run.trace")
    assert trace.header.context_tokens == untouched.lengths
    steps = list(trace)
    assert len(steps) == 20
    chosen = choices_of_untouched(untouched, 21)
    for step in steps:
        for request, length in enumerate(untouched.lengths):
            pad = max(untouched.lengths) - length
            for layer in range(3):
                own = layer if layer in chosen else layer - 1  # a shared layer takes the choice of the one before
                columns = chosen[own][step.index + 1][request].numpy()
                assert step.tokens(layer, request).tolist() == sorted(columns[columns >= pad] - pad)


def test_a_recorded_trace_replays_to_the_counts_of_its_run(deepseek, make_pool, tmp_path):
    path, capacity = tmp_path / "run.trace", deepseek.capacity
    with pooled(deepseek.model, make_pool(deepseek), capacity=capacity, trace_path=path) as session:
        deepseek.greedy(21)
    trace = TraceReader(path)
    requests = [PlanOnly.of(trace.header, capacity, request) for request in range(trace.header.num_requests)]
    assert Replay(trace.header, requests).run(trace).counters == session.counters


def test_a_trace_ends_where_its_sequences_take_in_another_prompt(deepseek, make_pool, tmp_path):
    with pooled(deepseek.model, make_pool(deepseek), trace_path=tmp_path / "run.trace"):
        begun = deepseek.model.generate(**deepseek.inputs, max_new_tokens=8, return_dict_in_generate=True)
        mask = torch.nn.functional.pad(deepseek.inputs["attention_mask"], (0, 12), value=1)
        longer = torch.nn.functional.pad(begun.sequences, (0, 4), value=1)
        deepseek.greedy(4, input_ids=longer, attention_mask=mask, **{deepseek.cache: begun[deepseek.cache]})
    assert len(list(TraceReader(tmp_path / "run.trace"))) == 7


def test_afterwards_the_model_is_untouched_and_unpublished_blocks_are_free(deepseek, make_pool):
    pool = make_pool(deepseek)
    with pytest.raises(KeyboardInterrupt), pooled(deepseek.model, pool):
        deepseek.greedy(8)
        assert pool.count(BlockState.HELD) == 0  # the cache of that run is gone already
        raise KeyboardInterrupt
    assert pool.num_free == 48 - pool.num_published
    assert torch.equal(deepseek.greedy(8)[1], deepseek.logits[:8])
    assert deepseek.model.config._attn_implementation == "eager"
    assert not deepseek.model._forward_hooks and not deepseek.model._forward_pre_hooks


def test_a_full_pool_is_refused_and_serves_again_once_blocks_are_free(deepseek, make_pool):
    pool = make_pool(deepseek, blocks=12)
    with pooled(deepseek.model, pool), pytest.raises(PoolFullError):
        deepseek.greedy()
    pool.retire_coldest(12)
    with pooled(deepseek.model, pool):
        deepseek.assert_same(*deepseek.greedy(4))

"""Models that we did not write, decoding over a pool: their tokens and logits beside those of the untouched models.

Every pool begins as NaN in each row, so a row that is read before it was written shows in the logits.
Near-equal scores can be chosen otherwise after rounding (an indexer's top-k, an expert): the seeds here have none.
"""

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM  # noqa: E402

from sac_runtime import sequence  # noqa: E402
from sac_runtime.arena import BlockState  # noqa: E402
from sac_runtime.errors import BlockStateError, GeometryError, PoolFullError  # noqa: E402
from sac_runtime.fetch import Request, Residency  # noqa: E402
from sac_runtime.hf import MODEL_TYPES, pool_shape, pooled, weights_digest  # noqa: E402
from sac_runtime.hf_tiny import tiny_model  # noqa: E402
from sac_runtime.layout import KvLayout  # noqa: E402
from sac_runtime.pool import Pool  # noqa: E402
from sac_runtime.pool_format import PoolGeometry  # noqa: E402
from sac_runtime.quantise import pack_rows, unpack_rows  # noqa: E402
from sac_runtime.replay import PlanOnly, Replay  # noqa: E402
from sac_runtime.store import MappedStore  # noqa: E402
from sac_runtime.trace import TraceReader  # noqa: E402

TOP_K = 32
CAPACITY = TOP_K + 1  # just above top-k, so that nearly every step evicts
LENGTHS = (100, 40, 12)  # prompts on both sides of top-k
NEW_TOKENS = 64
BLOCK_TOKENS = 16
TOLERANCE = 1e-5  # of logits that reach 3.5
FP32 = KvLayout.fp32()


@dataclass(frozen=True)
class Untouched:
    """A model, a batch of prompts padded on the left, and what the model makes of them on its own."""

    model: object
    inputs: dict
    tokens: object
    logits: object  # (steps, batch, vocab)


def prompts(lengths=LENGTHS, seed=3):
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    rows = [torch.randint(1, 512, (length,), generator=generator) for length in lengths]
    pads = [torch.zeros(longest - length, dtype=torch.long) for length in lengths]
    return {
        "input_ids": torch.stack([torch.cat(pair) for pair in zip(pads, rows, strict=True)]),
        "attention_mask": torch.tensor([[0] * (longest - length) + [1] * length for length in lengths]),
    }


def greedy(model, inputs, new_tokens=NEW_TOKENS, **options):
    output = model.generate(
        **inputs,
        max_new_tokens=new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return output.sequences, torch.stack(output.logits)


def deviation(logits, reference):
    """Largest difference of the logits; infinite where one is NaN."""
    return float(torch.nan_to_num((logits - reference[: len(logits)]).abs(), nan=torch.inf).max())


def poisoned_store(geometry, **memory):
    make = MappedStore.shared if "path" in memory else MappedStore.anonymous
    store = make(
        **memory, layout=geometry.layout, num_rows=geometry.num_rows, metadata_bytes=geometry.metadata_bytes,
        huge_pages=False,
    )  # fmt: skip
    all_ones = np.full((1024, geometry.layout.row_bytes), 0xFF, np.uint8)  # a NaN in fp32, bf16 and e4m3
    for first in range(0, geometry.num_rows, 1024):
        rows = np.arange(first, min(first + 1024, geometry.num_rows))
        store.write_rows(rows, all_ones[: len(rows)])
    return store


def geometry_for(model, layout=FP32, hosts=1, blocks=48):
    return PoolGeometry(layout, hosts, block_tokens=BLOCK_TOKENS, blocks_per_host=blocks, **pool_shape(model))


@pytest.fixture
def make_pool():
    with ExitStack() as resources:

        def make(model, layout=FP32, blocks=48):
            geometry = geometry_for(model, layout, blocks=blocks)
            store = resources.enter_context(poisoned_store(geometry))
            return resources.enter_context(
                Pool.create(
                    store, host=0, num_hosts=1, block_tokens=BLOCK_TOKENS, blocks_per_host=blocks, **pool_shape(model)
                )
            )

        yield make


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def references():
    made = {}
    for model_type in MODEL_TYPES:
        model, inputs = tiny_model(model_type, TOP_K), prompts()
        made[model_type] = Untouched(model, inputs, *greedy(model, inputs))
    return made


@pytest.fixture(params=MODEL_TYPES)
def untouched(request, references):
    return references[request.param]


@pytest.fixture
def deepseek(references):
    return references["deepseek_v32"]


def test_tokens_and_logits_are_those_of_the_untouched_model(untouched, make_pool):
    with pooled(untouched.model, make_pool(untouched.model), capacity=CAPACITY) as session:
        tokens, logits = greedy(untouched.model, untouched.inputs)
    assert torch.equal(tokens, untouched.tokens)
    assert deviation(logits, untouched.logits) < TOLERANCE
    for counters in session.counters:
        evictions_felt = counters.misses - counters.compulsory
        assert counters.steps == len(LENGTHS) * (NEW_TOKENS - 1)
        assert evictions_felt > 500


def test_a_prompt_that_is_in_the_pool_is_not_computed_again(untouched, make_pool):
    pool = make_pool(untouched.model)
    with pooled(untouched.model, pool, capacity=CAPACITY) as session:
        greedy(untouched.model, untouched.inputs, new_tokens=1)
        assert session.reused_tokens == 0
    with pooled(untouched.model, pool, capacity=CAPACITY) as session:
        tokens, logits = greedy(untouched.model, untouched.inputs)
    # Blocks hold 96, 32 and 0 tokens of the prompts; of the 100 columns the first 88 are in the pool for all three.
    assert session.reused_tokens == 88 + 28
    assert torch.equal(tokens, untouched.tokens)
    assert deviation(logits, untouched.logits) < TOLERANCE


PREFILL = """
import sys, torch
from sac_runtime.hf import pooled
from sac_runtime.hf_tiny import tiny_model
from sac_runtime.layout import KvLayout
from sac_runtime.pool import Pool
from sac_runtime.store import MappedStore

torch.set_num_threads(1)
path, prompts, num_rows, metadata_bytes, top_k = sys.argv[1:]
inputs = torch.load(prompts)
layout = KvLayout.fp32()
model = tiny_model("glm_moe_dsa", int(top_k))
with (
    MappedStore.shared(path, layout=layout, num_rows=int(num_rows), metadata_bytes=int(metadata_bytes)) as store,
    Pool.open(store, host=1) as pool,
    pooled(model, pool),
):
    model.generate(**inputs, max_new_tokens=1, do_sample=False)
"""


def test_one_process_prefills_and_another_decodes(references, tmp_path):
    untouched = references["glm_moe_dsa"]
    geometry = geometry_for(untouched.model, hosts=2)
    torch.save(untouched.inputs, tmp_path / "prompts.pt")
    arguments = [tmp_path / "pool", tmp_path / "prompts.pt", geometry.num_rows, geometry.metadata_bytes, TOP_K]
    with (
        poisoned_store(geometry, path=tmp_path / "pool") as store,
        Pool.create(
            store, host=0, num_hosts=2, block_tokens=BLOCK_TOKENS, blocks_per_host=48, **pool_shape(untouched.model)
        ) as pool,
    ):
        subprocess.run([sys.executable, "-c", PREFILL, *map(str, arguments)], check=True, timeout=120)
        with pooled(untouched.model, pool, capacity=CAPACITY) as session:
            tokens, logits = greedy(untouched.model, untouched.inputs)
    assert session.reused_tokens == 88 + 28
    assert torch.equal(tokens, untouched.tokens)
    assert deviation(logits, untouched.logits) < TOLERANCE


def test_two_models_share_a_pool_and_neither_takes_the_others_rows(references, make_pool):
    pool = make_pool(references["deepseek_v32"].model, blocks=96)
    with ExitStack() as resources:
        sessions = {
            name: resources.enter_context(pooled(each.model, pool, capacity=CAPACITY))
            for name, each in references.items()
        }
        for each in references.values():
            tokens, logits = greedy(each.model, each.inputs)
            assert torch.equal(tokens, each.tokens)
            assert deviation(logits, each.logits) < TOLERANCE
    assert [session.reused_tokens for session in sessions.values()] == [0, 0]
    assert pool.num_published == 2 * 20


def test_models_of_other_weights_have_other_names_for_their_blocks(references):
    digests = {weights_digest(each.model) for each in references.values()}
    digests.add(weights_digest(tiny_model("deepseek_v32", TOP_K, seed=1)))
    assert len(digests) == 3
    assert weights_digest(tiny_model("deepseek_v32", TOP_K)) in digests


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
    # fp32 noise of 1e-7 now and then rounds a latent value to the other side: one step of 2^-8 or 2^-3 of that value.
    [(KvLayout.bf16(), 2e-3), (KvLayout.fp8(), 5e-3)],
    ids=["bf16", "fp8"],
)
def test_rows_of_fewer_bytes_equal_the_model_with_its_cache_rounded_so(deepseek, make_pool, layout, tolerance):
    model, steps = deepseek.model, 32
    expected = greedy(model, deepseek.inputs, steps, past_key_values=RoundingCache(model.config, layout))
    with pooled(model, make_pool(model, layout), capacity=CAPACITY):
        tokens, logits = greedy(model, deepseek.inputs, steps)
    assert torch.equal(tokens, expected[0])
    assert deviation(logits, expected[1]) < tolerance
    assert deviation(expected[1][1:2], deepseek.logits[1:2]) > tolerance  # the rounding itself is felt


@pytest.mark.parametrize("residency", [Residency.FULL_PREFIX, Residency.RESIDENT])
def test_the_other_ways_to_hold_kv_give_the_same_tokens(deepseek, make_pool, residency):
    with pooled(deepseek.model, make_pool(deepseek.model), capacity=CAPACITY, residency=residency) as session:
        tokens, logits = greedy(deepseek.model, deepseek.inputs)
    assert torch.equal(tokens, deepseek.tokens)
    assert deviation(logits, deepseek.logits) < TOLERANCE
    assert all((counters.misses == 0) == (residency is Residency.RESIDENT) for counters in session.counters)


def test_a_prompt_may_come_in_chunks_and_a_sequence_go_on(deepseek, make_pool):
    with pooled(deepseek.model, make_pool(deepseek.model), capacity=CAPACITY):
        tokens, _ = greedy(deepseek.model, deepseek.inputs, new_tokens=16, prefill_chunk_size=30)
        assert torch.equal(tokens, deepseek.tokens[:, :116])
        first = deepseek.model.generate(
            **deepseek.inputs, max_new_tokens=8, do_sample=False, return_dict_in_generate=True
        )
        mask = torch.cat([deepseek.inputs["attention_mask"], torch.ones(3, 12, dtype=torch.long)], dim=1)
        longer = {"input_ids": deepseek.tokens[:, :112], "attention_mask": mask}
        tokens, _ = greedy(deepseek.model, longer, new_tokens=4, past_key_values=first.past_key_values)
        assert torch.equal(tokens, deepseek.tokens[:, :116])


def test_a_forward_that_wants_all_logits_gets_them_with_its_prompt_in_the_pool(deepseek, make_pool):
    inputs = {"input_ids": deepseek.inputs["input_ids"][:1]}
    with torch.no_grad():
        expected = deepseek.model(**inputs).logits
        with pooled(deepseek.model, make_pool(deepseek.model)):
            for _ in range(2):
                logits = deepseek.model(**inputs).logits
                assert logits.shape == expected.shape
                assert deviation(logits, expected) < TOLERANCE
            assert deviation(deepseek.model(**inputs, use_cache=False).logits, expected) < TOLERANCE


def test_a_recorded_trace_holds_what_the_untouched_model_chooses_and_replays_to_the_same_counts(
    untouched, make_pool, tmp_path
):
    steps = 20
    chosen = {}  # layer -> a (3, k) choice for each step
    hooks = [
        layer.self_attn.indexer.register_forward_hook(
            lambda module, args, output: chosen.setdefault(module.layer_idx, []).append(output[:, -1])
        )
        for layer in untouched.model.model.layers
        if layer.self_attn.indexer is not None
    ]
    greedy(untouched.model, untouched.inputs, new_tokens=steps + 1)
    for hook in hooks:
        hook.remove()
    path = tmp_path / "run.trace"
    with pooled(untouched.model, make_pool(untouched.model), capacity=CAPACITY, trace_path=path) as session:
        greedy(untouched.model, untouched.inputs, new_tokens=steps + 1)
        counters = [(each.hits, each.misses, each.compulsory) for each in session.counters]
        greedy(untouched.model, untouched.inputs, new_tokens=2)  # not in the trace

    trace = TraceReader(path)
    assert trace.header.context_tokens == LENGTHS
    recorded = list(trace)
    assert len(recorded) == steps
    pads = [max(LENGTHS) - length for length in LENGTHS]
    for step in recorded:
        for request, pad in enumerate(pads):
            for layer in range(3):
                source = layer if layer in chosen else layer - 1  # a shared layer takes the choice of the one before
                columns = chosen[source][step.index + 1][request].numpy()
                assert step.tokens(layer, request).tolist() == sorted(columns[columns >= pad] - pad)
    requests = [PlanOnly.of(trace.header, CAPACITY, request) for request in range(3)]
    replayed = Replay(trace.header, requests).run(recorded).counters
    assert [(each.hits, each.misses, each.compulsory) for each in replayed] == counters


def test_afterwards_the_model_is_untouched_and_unpublished_blocks_are_free(deepseek, make_pool):
    pool = make_pool(deepseek.model)
    with pytest.raises(KeyboardInterrupt), pooled(deepseek.model, pool):
        kept = greedy(deepseek.model, deepseek.inputs, new_tokens=8)
        assert pool.count(BlockState.HELD) == 0  # its cache is gone already
        raise KeyboardInterrupt
    assert pool.num_free == 48 - pool.num_published
    tokens, logits = greedy(deepseek.model, deepseek.inputs, new_tokens=8)
    assert torch.equal(tokens, kept[0])
    assert torch.equal(logits, deepseek.logits[:8])
    assert deepseek.model.config._attn_implementation == "eager"
    assert not deepseek.model._forward_hooks and not deepseek.model._forward_pre_hooks


def test_a_full_pool_is_refused_and_serves_again_once_blocks_are_free(deepseek, make_pool):
    pool = make_pool(deepseek.model, blocks=12)
    with pooled(deepseek.model, pool), pytest.raises(PoolFullError):
        greedy(deepseek.model, deepseek.inputs)
    pool.retire_coldest(12)
    with pooled(deepseek.model, pool, capacity=CAPACITY):
        tokens, _ = greedy(deepseek.model, deepseek.inputs, new_tokens=4)
    assert torch.equal(tokens, deepseek.tokens[:, :104])


# -- the oracle's oracle: break the code on purpose, and see the comparison notice ----------------------------------------

may_meet_nan = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


def broken_run(untouched, make_pool, new_tokens=12):
    with pooled(untouched.model, make_pool(untouched.model), capacity=CAPACITY):
        return deviation(greedy(untouched.model, untouched.inputs, new_tokens)[1], untouched.logits)


def test_the_comparison_passes_on_the_code_as_it_is(deepseek, make_pool):
    assert broken_run(deepseek, make_pool) < TOLERANCE


@may_meet_nan
def test_reading_another_layers_rows_is_noticed(deepseek, make_pool, monkeypatch):
    right = sequence.PoolSequence.rows
    monkeypatch.setattr(sequence.PoolSequence, "rows", lambda self, layer, tokens: right(self, (layer + 1) % 3, tokens))
    assert broken_run(deepseek, make_pool) > 100 * TOLERANCE


@may_meet_nan
def test_reading_the_neighbouring_tokens_row_is_noticed(deepseek, make_pool, monkeypatch):
    right = sequence.PoolSequence.rows
    monkeypatch.setattr(
        sequence.PoolSequence, "rows", lambda self, layer, tokens: right(self, layer, np.maximum(tokens - 1, 0))
    )
    assert broken_run(deepseek, make_pool) > 100 * TOLERANCE


@may_meet_nan
def test_a_stale_slot_is_noticed(deepseek, make_pool, monkeypatch):
    right = Request._fill

    def all_but_the_first_miss(self, layer, plan):
        held = self.slots[layer, plan.victim_slots[:1]].copy()
        elapsed_ns = right(self, layer, plan)
        self.slots[layer, plan.victim_slots[:1]] = held
        return elapsed_ns

    monkeypatch.setattr(Request, "_fill", all_but_the_first_miss)
    assert broken_run(deepseek, make_pool) > 100 * TOLERANCE


@may_meet_nan
def test_the_newest_row_one_slot_off_is_noticed(deepseek, make_pool, monkeypatch):
    def off_by_one(self, layer, plan, row):
        self.slots[layer, plan.newest_slot - 1] = row

    monkeypatch.setattr(Request, "place_newest", off_by_one)
    assert broken_run(deepseek, make_pool) > 100 * TOLERANCE


def test_a_row_that_decode_does_not_write_back_is_noticed(deepseek, make_pool, monkeypatch):
    monkeypatch.setattr(Request, "write_back", lambda self, layer, row: None)
    assert broken_run(deepseek, make_pool) == float("inf")  # the poison


def test_a_row_that_prefill_drops_is_noticed(deepseek, make_pool, monkeypatch):
    right = sequence.PoolSequence.write
    monkeypatch.setattr(
        sequence.PoolSequence,
        "write",
        lambda self, layer, first, values: right(self, layer, first, values[:-1] if len(values) > 1 else values),
    )
    assert broken_run(deepseek, make_pool) == float("inf")


def test_blocks_published_without_their_indexer_keys_are_noticed(deepseek, make_pool, monkeypatch):
    monkeypatch.setattr(
        Pool, "write_index_keys", lambda self, blocks, layer, keys: 0
    )  # the rows stay as they were: NaN keys
    pool = make_pool(deepseek.model)
    with pooled(deepseek.model, pool, capacity=CAPACITY):
        greedy(deepseek.model, deepseek.inputs, new_tokens=1)
        assert deviation(greedy(deepseek.model, deepseek.inputs, 12)[1], deepseek.logits) > 100 * TOLERANCE


def test_two_models_under_one_name_are_noticed(references, make_pool, monkeypatch):
    monkeypatch.setattr("sac_runtime.hf.weights_digest", lambda model: b"all the same")
    first, second = references.values()
    pool = make_pool(first.model)
    with pooled(first.model, pool):
        greedy(first.model, first.inputs, new_tokens=1)
    with pooled(second.model, pool, capacity=CAPACITY):
        assert deviation(greedy(second.model, second.inputs, 4)[1], second.logits) > 100 * TOLERANCE


# -- refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"attention_mask": torch.tensor([[1, 1, 1, 0]])}, "pad prompts on the left"),
        ({"attention_mask": torch.tensor([[1, 0, 1, 1]])}, "pad prompts on the left"),
        ({"attention_mask": torch.tensor([[0, 1, 1, 1]])}, "count each request's tokens from 0"),
        ({"attention_mask": torch.ones(1, 1, 4, 4)}, "it must be 2D"),
        ({"position_ids": torch.tensor([[1, 2, 3, 4]])}, "count each request's tokens from 0"),
        ({"input_ids": None, "inputs_embeds": torch.zeros(1, 4, 128)}, "input_ids is missing"),
    ],
)
def test_an_input_that_cannot_be_kept_in_blocks_is_refused(deepseek, make_pool, call, message):
    with pooled(deepseek.model, make_pool(deepseek.model)), pytest.raises(GeometryError, match=message):
        deepseek.model(**{"input_ids": torch.ones(1, 4, dtype=torch.long), **call})


def test_a_cache_begun_outside_is_refused(deepseek, make_pool):
    ids = torch.ones(1, 4, dtype=torch.long)
    begun = deepseek.model(ids).past_key_values
    with pooled(deepseek.model, make_pool(deepseek.model)), pytest.raises(GeometryError, match="begin with the prompt"):
        deepseek.model(ids, past_key_values=begun)


def test_beam_search_is_refused(deepseek, make_pool):
    with pooled(deepseek.model, make_pool(deepseek.model)), pytest.raises(GeometryError, match="beam search"):
        deepseek.model.generate(**prompts((8, 6)), max_new_tokens=4, num_beams=2, do_sample=False)


def test_a_cache_ends_with_its_pooled_block(deepseek, make_pool):
    with pooled(deepseek.model, make_pool(deepseek.model)):
        cache = deepseek.model(torch.ones(1, 4, dtype=torch.long)).past_key_values
    with (
        pooled(deepseek.model, make_pool(deepseek.model)),
        pytest.raises((BlockStateError, GeometryError)),
    ):
        deepseek.model(torch.ones(1, 1, dtype=torch.long), past_key_values=cache)


def test_a_model_or_pool_that_does_not_fit_is_refused(deepseek, make_pool):
    llama = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    pool = make_pool(deepseek.model)
    with pytest.raises(GeometryError, match="model_type='llama' must be one of"), pooled(llama, pool):
        pass
    with (
        pytest.raises(GeometryError, match=r"rows hold \(256, 64\) values"),
        pooled(deepseek.model, make_pool(deepseek.model, KvLayout.fp32(latent=256))),
    ):
        pass
    half = tiny_model("deepseek_v32", TOP_K).bfloat16()
    with pytest.raises(GeometryError, match="index_key_bytes=512, the model needs"), pooled(half, pool):
        pass

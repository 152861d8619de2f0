"""What a pooled model refuses, and how it says so."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sac_runtime.errors import GeometryError
from sac_runtime.models.pooled import CACHE_NAMES, pooled
from sac_runtime.models.tiny import tiny_model
from sac_runtime.rows.layout import KvLayout

IDS = torch.ones(1, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"attention_mask": torch.tensor([[1, 1, 1, 0]])}, "pad prompts on the left"),
        ({"attention_mask": torch.tensor([[1, 0, 1, 1]])}, "pad prompts on the left"),
        ({"attention_mask": torch.tensor([[0, 1, 1, 1]])}, "count each request's tokens from 0"),
        ({"attention_mask": torch.ones(1, 1, 4, 4)}, r"it must be a tensor of shape \(1, 4\)"),
        ({"position_ids": torch.tensor([[1, 2, 3, 4]])}, "count each request's tokens from 0"),
        ({"input_ids": None, "inputs_embeds": torch.zeros(1, 4, 128)}, "input_ids is missing"),
    ],
)
def test_an_input_that_cannot_be_kept_in_blocks_is_refused(deepseek, make_pool, call, message):
    with pooled(deepseek.model, make_pool(deepseek)), pytest.raises(GeometryError, match=message):
        deepseek.model(**{"input_ids": IDS, **call})


def test_a_prompt_longer_than_the_model_is_refused_before_it_is_computed(deepseek, make_pool, monkeypatch):
    monkeypatch.setattr(deepseek.model.config, "max_position_embeddings", 4)
    computed = []
    handle = deepseek.model.model.layers[0].register_forward_hook(lambda *_: computed.append(1))
    with pooled(deepseek.model, make_pool(deepseek)):
        deepseek.model(IDS)
        with pytest.raises(
            GeometryError, match=r"sequence of 5 tokens exceeds the model's max_position_embeddings=4 \("
        ):
            deepseek.model(torch.ones(1, 5, dtype=torch.long))
    handle.remove()
    assert len(computed) == 1


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_cache_begun_outside_is_refused_by_either_name(deepseek, make_pool, name):
    begun = deepseek.model(IDS)[deepseek.cache]
    with pooled(deepseek.model, make_pool(deepseek)), pytest.raises(GeometryError, match="begin with the prompt"):
        deepseek.model(IDS, **{name: begun})


def test_a_cache_ends_with_its_with_statement(deepseek, make_pool):
    pool = make_pool(deepseek)
    with pooled(deepseek.model, pool):
        cache = deepseek.model(IDS)[deepseek.cache]
    with pooled(deepseek.model, pool), pytest.raises(GeometryError, match="from outside this pooled"):
        deepseek.model(IDS[:, :1], **{deepseek.cache: cache})


def test_a_mask_that_changes_its_mind_is_refused(deepseek, make_pool):
    with pooled(deepseek.model, make_pool(deepseek)):
        cache = deepseek.model(IDS)[deepseek.cache]
        mask, positions = torch.tensor([[0, 1, 1, 1, 1]]), torch.tensor([[3]])
        with pytest.raises(GeometryError, match="pads request 0 by 1 columns now, by 0 before"):
            deepseek.model(IDS[:, :1], attention_mask=mask, position_ids=positions, **{deepseek.cache: cache})


def test_another_number_of_requests_is_refused(deepseek, make_pool):
    with pooled(deepseek.model, make_pool(deepseek)):
        cache = deepseek.model(IDS)[deepseek.cache]
        with pytest.raises(GeometryError, match="input_ids holds 2 requests, the cache 1"):
            deepseek.model(IDS[:, :1].repeat(2, 1), **{deepseek.cache: cache})


def test_a_forward_that_goes_round_the_pooled_model_is_refused(deepseek, make_pool):
    with pooled(deepseek.model, make_pool(deepseek)):
        cache = deepseek.model(IDS)[deepseek.cache]
        with pytest.raises(
            GeometryError, match="layer 0 is given 5 columns, the cache holds 4; call the pooled model itself"
        ):
            deepseek.model.model(IDS[:, :1], **{deepseek.cache: cache})


def test_a_cache_outlives_its_with_statement_in_no_model(deepseek, make_pool):
    with pooled(deepseek.model, make_pool(deepseek)):
        cache = deepseek.model(IDS)[deepseek.cache]
    with pytest.raises(GeometryError, match="call the pooled model itself, inside pooled"):
        deepseek.model(IDS[:, :1], **{deepseek.cache: cache})


def test_a_model_in_two_pools_at_once_is_refused(deepseek, make_pool):
    with (
        pooled(deepseek.model, make_pool(deepseek)),
        pytest.raises(GeometryError, match="is in a pooled\\(\\) already"),
        pooled(deepseek.model, make_pool(deepseek)),
    ):
        pass


def test_a_static_cache_is_refused(deepseek, make_pool):
    with pooled(deepseek.model, make_pool(deepseek)), pytest.raises(GeometryError, match="static caches"):
        deepseek.model.generate(IDS, max_new_tokens=2, cache_implementation="static")


def test_beam_search_is_refused(deepseek, make_pool):
    with pooled(deepseek.model, make_pool(deepseek)), pytest.raises(GeometryError, match="beam search"):
        deepseek.model.generate(IDS, max_new_tokens=4, num_beams=2, do_sample=False)


def test_another_kind_of_model_is_refused(deepseek, make_pool):
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1))
    with (
        pytest.raises(GeometryError, match="model_type='llama' must be one of deepseek_v32, glm_moe_dsa"),
        pooled(llama, make_pool(deepseek)),
    ):
        pass


def test_a_pool_of_other_row_widths_is_refused(deepseek, make_pool):
    pool = make_pool(deepseek, KvLayout.fp32(latent=256))
    with pytest.raises(GeometryError, match=r"rows hold \(256, 64\) values"), pooled(deepseek.model, pool):
        pass


def test_a_pool_of_other_indexer_keys_is_refused(deepseek, make_pool):
    half = tiny_model("deepseek_v32").bfloat16()
    with (
        pytest.raises(GeometryError, match="index_key_bytes=512, the model needs"),
        pooled(half, make_pool(deepseek)),
    ):
        pass

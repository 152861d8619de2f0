"""Tiny models of random weights that run on a CPU in no time: for tests, demos and a first try of `pooled`.

Knows the configs of MODEL_TYPES at small sizes. Row widths are DeepSeek-V3.2's (512 and 64), so that rows have their real size.
"""

import torch
from transformers import PreTrainedModel
from transformers.models.deepseek_v32 import DeepseekV32Config, DeepseekV32ForCausalLM
from transformers.models.glm_moe_dsa import GlmMoeDsaConfig, GlmMoeDsaForCausalLM

_CLASSES = {
    "deepseek_v32": (DeepseekV32Config, DeepseekV32ForCausalLM),
    "glm_moe_dsa": (GlmMoeDsaConfig, GlmMoeDsaForCausalLM),
}
_SIZES = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 96,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "index_head_dim": 128,
    "index_n_heads": 8,
    "max_position_embeddings": 163840,  # 40 x 4096, as yarn below says
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "original_max_position_embeddings": 4096,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,  # without it transformers leaves the softmax scale as if there were no yarn
}
_GAIN = 0.75  # of each projection: at the initial 0.02 attention is so even that a wrong row hardly shows


def tiny_model(model_type: str, top_k: int = 32, seed: int = 0) -> PreTrainedModel:
    """A model of one of MODEL_TYPES with three layers and random weights, the norms' too; fp32, eager attention.

    In `glm_moe_dsa` the second layer shares the first one's choice."""
    config_class, model_class = _CLASSES[model_type]
    shared = {"indexer_types": ["full", "shared", "full"]} if model_type == "glm_moe_dsa" else {}
    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    config = config_class(
        **_SIZES, **shared, **ids, index_topk=top_k, rope_parameters=dict(_YARN), attn_implementation="eager"
    )
    model: PreTrainedModel = model_class(config).eval()
    _randomise(model, torch.Generator().manual_seed(seed))
    return model


@torch.no_grad()
def _randomise(model: PreTrainedModel, generator: torch.Generator) -> None:
    for name, weight in model.named_parameters():
        normal = torch.randn(weight.shape, generator=generator)
        if "norm" in name:
            weight.copy_(0.1 * normal + float(name.endswith("weight")))
        else:
            weight.copy_(normal * _GAIN / weight.shape[-1] ** 0.5)

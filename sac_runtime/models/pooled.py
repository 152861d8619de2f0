"""Hugging Face models with DeepSeek sparse attention, decoding with their KV in a pool.

    pool = Pool.create(store, host=0, num_hosts=2, block_tokens=64, **pool_shape(model))
    with pooled(model, pool):
        model.generate(input_ids, attention_mask=attention_mask, max_new_tokens=64)

Knows torch, transformers (5.18 to 5.24, whose caches hold latents) and one pool. The models are `deepseek_v32` and
`glm_moe_dsa`. Their own code projects, rotates, scores and chooses; what the cache keeps and what decode attends over
is ours:

- Prefill writes rows to the pool layer by layer and attends as the untouched model does. A published prefix is not
  computed again: its rows stay where they are, its indexer keys are loaded.
- Decode fetches the chosen rows from the pool into hot buffers, attends over slots, and writes the new token's row
  back. Blocks that become full are published to every host.
- Logits equal the untouched model's to rounding. Two scores nearer to each other than that may be ranked otherwise, as the
  untouched model itself does between one long forward and single steps; a choice that changes so changes logits visibly.
- Indexer keys stay local, as SAC keeps them in HBM. A block carries a copy of its own, so that another host can decode.
"""

import hashlib
import inspect
import json
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import eager_mask

from sac_runtime.errors import GeometryError
from sac_runtime.fetch.hot_buffer import Counters
from sac_runtime.fetch.request import FetchConfig
from sac_runtime.fetch.residency import Residency
from sac_runtime.models import cache as hf_cache
from sac_runtime.models.cache import Decoder, ModelParts, PooledCache
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import FloatArray
from sac_runtime.traces.format import TraceHeader, TraceWriter

MODEL_TYPES = ("deepseek_v32", "glm_moe_dsa")
ATTENTION_NAME = "sac_pool"
CACHE_NAMES = ("cache", "past_key_values")  # transformers from 5.24 on, and before

_SAMPLES_PER_WEIGHT = 1024
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_NOT_IN_ROWS = {"_name_or_path", "transformers_version", "architectures", "dtype", "use_cache", "return_dict"}

AttentionInterface.register(ATTENTION_NAME, hf_cache.attention)
AttentionMaskInterface.register(ATTENTION_NAME, eager_mask)


def pool_shape(model: PreTrainedModel) -> dict[str, int]:
    """What Pool.create must be told for `model`: num_layers, and index_key_bytes in the model's own precision."""
    config = model.config
    return {
        "num_layers": config.num_hidden_layers,
        "index_key_bytes": config.index_head_dim * model.dtype.itemsize,
    }


def cache_name(model: PreTrainedModel) -> str:
    """What the forward and the outputs of `model` call the cache: one of CACHE_NAMES."""
    parameters = inspect.signature(model.forward).parameters
    return next(name for name in CACHE_NAMES if name in parameters)


@contextmanager
def pooled(
    model: PreTrainedModel,
    pool: Pool,
    *,
    capacity: int | None = None,
    residency: Residency = Residency.SPARSE,
    trace_path: Path | str | None = None,
    decoder: Decoder | None = None,
) -> Iterator["PooledModel"]:
    """Keep the KV of `model` in `pool` while the body runs, for inference; afterwards the model is as before.

    capacity: slots of a hot buffer, by default twice the model's top-k; residency: see sac_runtime.fetch.request; trace_path:
    record there the top-k of each decode step of the first generate(). decoder: decodes in place of the CPU, see
    sac_runtime.models.device. Prompts may differ in length, padded on the
    left as generate() wants them; beam search and assisted decoding are refused.
    Raises GeometryError for a model that is no MODEL_TYPES or does not fit the pool, PoolFullError, FencedError."""
    _require_fit(model, pool)
    if decoder is not None and trace_path is not None:
        raise GeometryError("pooled model: trace_path needs choices on the CPU; record without a decoder")
    previous_attention = model.config._attn_implementation
    capacity = 2 * model.config.index_topk if capacity is None else capacity
    session = PooledModel(model, pool, capacity, residency, trace_path, decoder)
    with ExitStack() as resources:
        resources.push(lambda kind, error, trace: session.close(complete=kind is None))
        resources.callback(model.set_attn_implementation, previous_attention)
        model.set_attn_implementation(ATTENTION_NAME)
        resources.callback(model.register_forward_pre_hook(session._before_forward, with_kwargs=True).remove)
        resources.callback(model.register_forward_hook(session._after_forward, with_kwargs=True).remove)
        yield session


class PooledModel:
    """A model while `pooled` holds, and figures of its decode steps.

    counters: of each layer, over all requests; reused_tokens: prompt tokens that the pool had and nobody computed."""

    def __init__(
        self,
        model: PreTrainedModel,
        pool: Pool,
        capacity: int,
        residency: Residency,
        trace_path: Path | str | None,
        decoder: Decoder | None,
    ) -> None:
        config = model.config
        self.pool = pool
        self.config = FetchConfig(config.num_hidden_layers, config.index_topk, capacity, residency)
        self.counters = [Counters() for _ in range(config.num_hidden_layers)]
        self.reused_tokens = 0
        attentions = [layer.self_attn for layer in model.model.layers]
        self._parts = ModelParts(
            weights_digest(model),
            config.max_position_embeddings,
            model.dtype,
            model.device,
            [config.index_head_dim if attention.indexer is not None else 0 for attention in attentions],
            [_split_kv_projection(attention) for attention in attentions],
        )
        self._parameters = list(inspect.signature(model.forward).parameters)
        self._cache_name = cache_name(model)
        self._caches = weakref.WeakSet[PooledCache]()
        self._trace_path = trace_path
        self._decoder = decoder
        self._trace: TraceWriter | None = None
        self._traced_cache: weakref.ref[PooledCache] | None = None

    def close(self, complete: bool = True) -> None:
        """End the trace, as cut off unless the run is complete; give back what the sequences hold in the pool beside
        published blocks."""
        if self._trace is not None:
            self._trace.close(complete)
        with ExitStack() as resources:
            for cache in self._caches:
                resources.callback(cache.close)

    def _before_forward(
        self, model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        kwargs = dict(zip(self._parameters, args, strict=False)) | kwargs
        given = [kwargs.pop(name, None) for name in CACHE_NAMES]  # transformers takes the old name too, for a while
        kwargs[self._cache_name] = next((cache for cache in given if cache is not None), None)
        cache = self._cache_of(model, kwargs)
        if cache is None:
            return (), kwargs
        batch, num_new = kwargs["input_ids"].shape
        pads = _left_padding(kwargs.get("attention_mask"), (batch, cache.num_columns + num_new))
        _require_positions(pads, cache.num_columns, num_new, kwargs.get("position_ids"))
        _require_room(cache.num_columns + num_new - min(pads), self._parts.max_tokens)
        # A caller that wants the last logits alone, as generate() does, will not miss those of a reused prefix.
        kept = kwargs.get("logits_to_keep")
        last_logits_only = isinstance(kept, int) and kept == 1
        skipped = cache.begin_forward(kwargs["input_ids"], pads, reuse_prefix=last_logits_only)
        self.reused_tokens += sum(max(0, skipped - pad) for pad in cache.pads)
        for name in ("input_ids", "position_ids"):
            if kwargs.get(name) is not None:
                kwargs[name] = kwargs[name][:, skipped:]
        return (), kwargs | {self._cache_name: cache, "pooled_cache": cache}

    def _after_forward(
        self, model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        cache = kwargs.get("pooled_cache")
        if cache is not None:
            cache.end_forward()
            if cache.decoding and self._trace_path is not None:
                self._record(cache, self._trace_path)

    def _cache_of(self, model: PreTrainedModel, kwargs: dict[str, Any]) -> PooledCache | None:
        """The cache of a forward, a new one where a sequence begins; None for a forward that keeps nothing."""
        cache = kwargs[self._cache_name]
        use_cache = kwargs.get("use_cache")
        if cache is None and not (model.config.use_cache if use_cache is None else use_cache):
            return None
        if kwargs.get("input_ids") is None:
            raise GeometryError(
                "pooled model: input_ids is missing; blocks are named by tokens, inputs_embeds cannot do"
            )
        if isinstance(cache, PooledCache) and cache in self._caches:
            return cache
        if isinstance(cache, Cache) and cache.get_seq_length():
            raise GeometryError(
                f"pooled model: {self._cache_name} holds tokens from outside this pooled(); begin with the prompt"
            )
        cache = PooledCache(self.pool, self._parts, self.config, len(kwargs["input_ids"]), self.counters, self._decoder)
        self._caches.add(cache)
        return cache

    def _record(self, cache: PooledCache, path: Path | str) -> None:
        """Write a step of the sequences that were the first to decode, unless a prompt came in between."""
        lengths = tuple(map(len, cache.sequences))
        if self._trace is None:
            before = tuple(length - 1 for length in lengths)
            header = TraceHeader(self.config.num_layers, self.config.top_k, before, "recorded from a pooled model")
            self._trace, self._traced_cache = TraceWriter(path, header), weakref.ref(cache)
        expected = tuple(tokens + self._trace.num_steps + 1 for tokens in self._trace.header.context_tokens)
        if self._traced_cache is not None and self._traced_cache() is cache and lengths == expected:
            self._trace.write_step(cache.chosen)


def weights_digest(model: PreTrainedModel) -> bytes:
    """16 bytes that tell models apart, so that none takes another's KV for its own.

    Over the config, and of each weight and buffer up to 1024 evenly spaced values and the sum of all bits as integers: no
    single change escapes, and a model of any size takes one pass over its memory."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NOT_IN_ROWS}
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=16)
    for name, weight in model.state_dict().items():  # buffers too: the router's e_score_correction_bias is one
        stride = max(1, weight.numel() // _SAMPLES_PER_WEIGHT)
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().flatten()[::stride].float().cpu().numpy().tobytes())
        bits = weight.detach().contiguous().view(_INTEGERS[weight.dtype.itemsize])
        digest.update(int(bits.sum(dtype=torch.int64)).to_bytes(8, "little", signed=True))
    return digest.digest()


def _require_fit(model: PreTrainedModel, pool: Pool) -> None:
    config, geometry = model.config, pool.geometry
    if config.model_type not in MODEL_TYPES:
        raise GeometryError(f"pooled model: model_type={config.model_type!r} must be one of {', '.join(MODEL_TYPES)}")
    if config._attn_implementation == ATTENTION_NAME:
        raise GeometryError("pooled model: is in a pooled() already; one model has its KV in one pool at a time")
    widths, wanted = (geometry.layout.latent, geometry.layout.rope), (config.kv_lora_rank, config.qk_rope_head_dim)
    if widths != wanted:
        raise GeometryError(
            f"pooled model: the pool's rows hold {widths} values, the model makes {wanted} (latent, RoPE key); "
            "create the pool with a layout of these widths"
        )
    shape = pool_shape(model)
    if geometry.num_layers < shape["num_layers"] or geometry.index_key_bytes != shape["index_key_bytes"]:
        raise GeometryError(
            f"pooled model: the pool has num_layers={geometry.num_layers} and index_key_bytes="
            f"{geometry.index_key_bytes}, the model needs {shape}; create the pool with pool_shape(model)"
        )


def _left_padding(attention_mask: object, shape: tuple[int, int]) -> list[int]:
    """Padding columns of each request. shape: requests and columns so far.
    Raises GeometryError for padding anywhere but on the left."""
    if attention_mask is None:
        return [0] * shape[0]
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.shape != shape:
        found = (
            tuple(attention_mask.shape) if isinstance(attention_mask, torch.Tensor) else type(attention_mask).__name__
        )
        raise GeometryError(
            f"pooled model: attention_mask is {found}; it must be a tensor of shape {shape}, a number for each request and "
            "column so far (static caches, which make masks of their own, are not supported)"
        )
    mask = attention_mask.bool().cpu()
    if (mask[:, :-1] & ~mask[:, 1:]).any():
        raise GeometryError("pooled model: attention_mask pads behind a token; pad prompts on the left")
    return [int(pad) for pad in (~mask).sum(dim=1)]


def _require_positions(pads: list[int], num_past: int, num_new: int, position_ids: torch.Tensor | None) -> None:
    """Raise GeometryError unless each request's first token is at position 0: RoPE is in the rows, so a prefix is
    reusable only where its tokens always have the same positions."""
    columns = torch.arange(num_past, num_past + num_new)
    expected = columns - torch.tensor(pads)[:, None]
    given = columns.expand_as(expected) if position_ids is None else position_ids.cpu()
    if ((given != expected) & (expected >= 0)).any():
        raise GeometryError(
            "pooled model: position_ids must count each request's tokens from 0, as generate() makes them; "
            "give position_ids = attention_mask.cumsum(-1) - 1"
        )


def _require_room(num_tokens: int, max_tokens: int) -> None:
    """Raise GeometryError for a sequence that outgrows the model, before anything of it is computed."""
    if num_tokens > max_tokens:
        raise GeometryError(
            f"pooled model: a sequence of {num_tokens} tokens exceeds the model's max_position_embeddings={max_tokens} "
            "(shorten the prompt, or ask for fewer new tokens)"
        )


def _split_kv_projection(attention: Any) -> tuple[FloatArray, FloatArray]:
    """kv_b_proj as w_uk (H, nope, D) and w_uv (H, v, D)."""
    weight = attention.kv_b_proj.weight.detach().float().cpu().numpy()
    heads = weight.reshape(attention.num_heads, -1, weight.shape[1])
    w_uk, w_uv = np.split(heads, [attention.qk_nope_head_dim], axis=1)
    return w_uk, w_uv

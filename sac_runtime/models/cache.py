"""What transformers calls while a pooled model runs: the cache of a batch, and the attention over it.

Knows torch, transformers' cache interface, sequences in a pool and the fetch path. Opened by sac_runtime.models.pooled.
"""

import sys
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from sac_runtime.errors import GeometryError
from sac_runtime.fetch.attention import absorb_queries, expand_values
from sac_runtime.fetch.hot_buffer import Counters
from sac_runtime.fetch.request import FetchConfig, RequestKv
from sac_runtime.fetch.step import AttentionQuery, attend_chosen
from sac_runtime.pool.pool import Pool
from sac_runtime.pool.sequence import PoolSequence
from sac_runtime.rows.layout import ByteArray, FloatArray, IntArray
from sac_runtime.rows.quantise import pack_rows, unpack_rows
from sac_runtime.traces.format import TokenSet


@dataclass(frozen=True)
class ModelParts:
    """What the cache needs to know of a model.

    root: what its chains of block hashes start from; index_widths: of each layer's indexer keys, 0 where a layer shares
    the choice of the one before; projections: of each layer, w_uk (H, nope, D) and w_uv (H, v, D)."""

    root: bytes
    max_tokens: int
    dtype: torch.dtype
    device: torch.device
    index_widths: list[int]
    projections: list[tuple[FloatArray, FloatArray]]


class DecodeBatch(Protocol):
    """Decode steps of a batch elsewhere than on the CPU: sac_runtime.models.device.DeviceBatch, which states the contracts."""

    def begin_step(self) -> None: ...
    def decode(
        self,
        layer: int,
        newest: tuple[torch.Tensor, torch.Tensor],
        query: torch.Tensor,
        attention_mask: torch.Tensor,
        scale: float,
        indices: torch.Tensor,
    ) -> torch.Tensor: ...
    def write_back(self) -> None: ...
    def counters(self, layer: int) -> Counters: ...


class Decoder(Protocol):
    """Makes the DecodeBatch of a cache whose batch begins to decode."""

    def begin(self, cache: "PooledCache") -> DecodeBatch: ...


class PooledCache(Cache):
    """The cache of one batch: where transformers keeps keys and values, this one has sequences in a pool.

    Column c of the batch holds token c - pad of a request, pad being its padding columns, all on the left. counters: one
    a layer, counted up as steps go by. decoder: decodes in place of
    the CPU. A forward is begin_forward(), the model's own code, end_forward()."""

    def __init__(
        self,
        pool: Pool,
        model: ModelParts,
        config: FetchConfig,
        num_requests: int,
        counters: list[Counters],
        decoder: Decoder | None = None,
    ) -> None:
        self._layers = [_PooledLayer(self, layer) for layer in range(config.num_layers)]
        super().__init__(layers=list(self._layers))
        self.pool = pool
        self.model = model
        self.config = config
        self.pads = [0] * num_requests
        self.num_columns = 0
        self.decoding = False
        self.requests: list[RequestKv] = []
        self.chosen: list[list[TokenSet]] = []
        self._counters = counters
        self._decoder = decoder
        self._decode_batch: DecodeBatch | None = None
        resources = ExitStack()
        self._lease = resources.enter_context(pool.lease())
        self.sequences = [PoolSequence(pool, self._lease, model.root) for _ in self.pads]
        for sequence in self.sequences:
            resources.callback(sequence.release)
        resources.callback(_close_all, self.requests)
        self._finalizer = weakref.finalize(self, resources.close)
        self._finalizer.atexit = False  # by then the pool may be gone

    def close(self) -> None:
        """Give back the blocks that nobody else can find, and end the lease. Raises FencedError. Twice does nothing."""
        self._end_decode_batch()
        self._finalizer()

    def _end_decode_batch(self) -> None:
        """Take its counts over; the next step begins another, which knows of what was written meanwhile."""
        if self._decode_batch is not None:
            for layer, counters in enumerate(self._counters):
                counters.add(self._decode_batch.counters(layer))
            self._decode_batch = None

    @property
    def decodes_elsewhere(self) -> bool:
        return self._decoder is not None

    def begin_forward(self, input_ids: torch.Tensor, pads: list[int], reuse_prefix: bool) -> int:
        """Take in the tokens of the next columns, (B, S). pads: padding columns of each request so far. Returns how many
        of the columns need no computing, since the pool has all their rows; 0 without `reuse_prefix`."""
        if len(input_ids) != len(self.sequences):
            raise GeometryError(
                f"pooled cache: input_ids holds {len(input_ids)} requests, the cache {len(self.sequences)}; begin with the prompts"
            )
        self._set_pads(pads)
        tokens = input_ids.cpu().numpy().astype(np.int64)
        fresh = [row[max(0, pad - self.num_columns) :] for row, pad in zip(tokens, pads, strict=True)]
        skipped = self._adopt_prefixes(fresh) if reuse_prefix and not self.num_columns else 0
        for sequence, row in zip(self.sequences, fresh, strict=True):
            sequence.extend(row[0 if self.num_columns else len(sequence) :])
        self.num_columns += tokens.shape[1]
        self.decoding = tokens.shape[1] - skipped == 1 and all(map(len, self.sequences))
        if self.decoding:
            self._begin_step()
        else:
            _close_all(self.requests)  # prefill writes rows that they would not know of
            self._end_decode_batch()
        return skipped

    def end_forward(self) -> None:
        """End the step and publish the blocks that have become full. Raises FencedError if this host lost what it read
        meanwhile."""
        if self.decoding:
            for written in self.requests if self._decode_batch is None else (self._decode_batch,):
                written.write_back()
        for number, sequence in enumerate(self.sequences):
            sequence.publish_full(partial(self._index_keys, number))
        self._lease.check()

    def decode(
        self, layer: int, query: torch.Tensor, attention_mask: torch.Tensor, scale: float, indices: torch.Tensor
    ) -> torch.Tensor:
        """Attention of one decode step at one layer over the chosen tokens alone.

        query: (B, H, 1, nope + R); attention_mask: (B, 1, 1, T), 0 where a column may be seen; indices: (B, 1, k) columns,
        of which those that may not be seen are dropped. Returns (B, 1, H, v)."""
        if self._decode_batch is not None:
            newest = self._layers[layer].newest
            return self._decode_batch.decode(layer, newest, query, attention_mask, scale, indices)
        w_uk, w_uv = self.model.projections[layer]
        rows, heads = self._layers[layer].newest_rows, _as_numpy(query[:, :, 0])
        queries = [_absorbed(*each, w_uk) for each in zip(rows, heads, strict=True)]
        steps = attend_chosen(layer, self.requests, self._chosen_tokens(attention_mask, indices), queries, scale)
        for chosen, each in zip(self.chosen, steps, strict=True):
            chosen.append(each.topk)
            self._counters[layer].count(each.plan)
        outputs = np.stack([expand_values(each.output, w_uv) for each in steps])
        return torch.from_numpy(outputs).to(query).unsqueeze(1)

    def _chosen_tokens(self, attention_mask: torch.Tensor, indices: torch.Tensor) -> list[TokenSet]:
        """The visible ones of each request's chosen columns, as ascending tokens. Shapes as in decode."""
        columns = indices[:, 0].long()
        visible = attention_mask[:, 0, 0].gather(1, columns) == 0
        return [
            np.sort(of_request[seen].cpu().numpy()) - pad
            for of_request, seen, pad in zip(columns, visible, self.pads, strict=True)
        ]

    def _set_pads(self, pads: list[int]) -> None:
        """A request without a token yet may turn out to have more padding; for others it is settled."""
        for number, (sequence, before, pad) in enumerate(zip(self.sequences, self.pads, pads, strict=True)):
            if len(sequence) and pad != before:
                raise GeometryError(
                    f"pooled cache: attention_mask pads request {number} by {pad} columns now, by {before} before; "
                    "give the mask of all columns in every forward"
                )
        self.pads = pads

    def _adopt_prefixes(self, tokens: list[IntArray]) -> int:
        """Begin the sequences with what is published of their prompts. Returns the columns that all of them have."""
        adopted = [sequence.adopt_prefix(row) for sequence, row in zip(self.sequences, tokens, strict=True)]
        skipped = min(pad + num_tokens for pad, num_tokens in zip(self.pads, adopted, strict=True))
        for layer in self._layers:
            layer.begin_at(skipped)
        return skipped

    def _begin_step(self) -> None:
        if self._decoder is not None:
            self._decode_batch = self._decode_batch or self._decoder.begin(self)
            self._decode_batch.begin_step()
            return
        if not self.requests:
            capacity = min(self.model.max_tokens, self.pool.geometry.num_blocks * self.pool.geometry.block_tokens)
            self.requests += [
                RequestKv(sequence.home, self.config, len(sequence) - 1, capacity) for sequence in self.sequences
            ]
        self.chosen = [[] for _ in self.requests]
        for request in self.requests:
            request.begin_step()

    def _index_keys(self, number: int, layer: int, first_token: int, end_token: int) -> ByteArray:
        pad = self.pads[number]
        return self._layers[layer].index_key_bytes(number, pad + first_token, pad + end_token)


class _PooledLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer of a PooledCache. transformers calls update() with new rows, then update_indexer() with their keys."""

    is_compileable = False
    is_sliding = False

    def __init__(self, cache: PooledCache, layer: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.newest_rows: list[ByteArray] = []
        self.newest: tuple[torch.Tensor, torch.Tensor] = torch.empty(0), torch.empty(0)
        self._cache = weakref.proxy(cache)
        self._layer = layer
        self._num_columns = 0
        self._index_keys: torch.Tensor | None = None

    def begin_at(self, num_columns: int) -> None:
        """Start behind columns whose rows the pool has; their indexer keys come from there."""
        cache = self._cache
        self._num_columns = num_columns
        width = cache.model.index_widths[self._layer]
        if not num_columns or not width:
            return
        keys = torch.zeros(len(cache.pads), num_columns, width, dtype=cache.model.dtype)
        for request, (sequence, pad) in enumerate(zip(cache.sequences, cache.pads, strict=True)):
            if num_columns > pad:
                stored = torch.from_numpy(sequence.read_index_keys(self._layer)[: num_columns - pad])
                keys[request, pad:] = stored.view(cache.model.dtype)
        self._index_keys = keys.to(cache.model.device)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in the rows of new columns: latents (B, 1, S, D) and RoPE keys (B, 1, S, R).

        Prefill writes them to the pool and returns those of all columns; decode keeps them for its step and returns
        them alone, since it attends over slots."""
        first_column = self._num_columns
        self._num_columns += key_states.shape[2]
        if self._num_columns != self._cache.num_columns:
            raise GeometryError(
                f"pooled cache: layer {self._layer} is given {self._num_columns} columns, the cache holds "
                f"{self._cache.num_columns}; call the pooled model itself, inside pooled(), and begin anew after a failed step"
            )
        if self._cache.decoding and self._cache.decodes_elsewhere:
            self.newest = key_states, value_states
            return self.newest
        layout = self._cache.pool.geometry.layout
        rows = [
            pack_rows(layout, _as_numpy(latent[0]), _as_numpy(rope[0]))
            for latent, rope in zip(key_states, value_states, strict=True)
        ]
        if self._cache.decoding:
            self.newest_rows = [row[0] for row in rows]
            return key_states, value_states
        self._write(first_column, rows)
        return self._with_past(first_column, key_states, value_states)

    def update_indexer(self, indexer_key_states: torch.Tensor) -> torch.Tensor:
        """Append indexer keys (B, S, W); returns those of all columns."""
        known = [] if self._index_keys is None else [self._index_keys]
        self._index_keys = torch.cat([*known, indexer_key_states], dim=1)
        return self._index_keys

    def index_key_bytes(self, number: int, first_column: int, end_column: int) -> ByteArray:
        """Keys as the pool stores them, (n, index_key_bytes) uint8; zeros in a layer without an indexer of its own."""
        if self._index_keys is None:
            return np.zeros((end_column - first_column, self._cache.pool.geometry.index_key_bytes), np.uint8)
        keys = self._index_keys[number, first_column:end_column].contiguous()
        stored: ByteArray = keys.view(torch.uint8).cpu().numpy()
        return stored

    def get_seq_length(self) -> int:
        return self._num_columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._num_columns + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to set up; part of transformers' interface."""

    def reset(self) -> None:
        self._refuse("reset")

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self._refuse("reordering, as beam search does")

    def crop(self, tokens_to_remove: int) -> None:
        self._refuse("cropping, as assisted decoding does")

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._refuse("repeating")

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._refuse("selecting")

    def _write(self, first_column: int, rows: list[ByteArray]) -> None:
        for sequence, pad, values in zip(self._cache.sequences, self._cache.pads, rows, strict=True):
            sequence.write(self._layer, max(0, first_column - pad), values[max(0, pad - first_column) :])

    def _with_past(
        self, num_past: int, latents: torch.Tensor, ropes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of all columns: those before `num_past` from the pool (zeros for padding), then the given ones."""
        if not num_past:
            return latents, ropes
        layout = self._cache.pool.geometry.layout
        past_latents = latents.new_zeros(len(latents), 1, num_past, layout.latent)
        past_ropes = ropes.new_zeros(len(ropes), 1, num_past, layout.rope)
        for request, (sequence, pad) in enumerate(zip(self._cache.sequences, self._cache.pads, strict=True)):
            if num_past > pad:
                latent, rope = unpack_rows(layout, sequence.read(self._layer, num_past - pad))
                past_latents[request, 0, pad:] = torch.from_numpy(latent)
                past_ropes[request, 0, pad:] = torch.from_numpy(rope)
        return torch.cat([past_latents, latents], dim=2), torch.cat([past_ropes, ropes], dim=2)

    def _refuse(self, what: str) -> None:
        raise GeometryError(
            f"pooled cache: {what} is not supported; published KV never changes (decode greedily or sample)"
        )


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
    indices: torch.Tensor | None = None,
    pooled_cache: PooledCache | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """transformers' attention interface: decode over the pool, everything else as the untouched model's eager way.

    indices: (B, S, k) chosen columns of each query; pooled_cache: put into the call by sac_runtime.models.pooled."""
    assert indices is not None
    if pooled_cache is not None and pooled_cache.decoding:
        return pooled_cache.decode(module.layer_idx, query, attention_mask, scaling, indices), None
    unchosen = torch.ones(*indices.shape[:2], key.shape[2], dtype=torch.bool, device=query.device)
    unchosen.scatter_(-1, indices.long(), False)
    mask = attention_mask.masked_fill(unchosen.unsqueeze(1), torch.finfo(query.dtype).min)
    eager = sys.modules[type(module).__module__].eager_attention_forward
    output: tuple[torch.Tensor, torch.Tensor] = eager(module, query, key, value, mask, scaling=scaling, dropout=dropout)
    return output


def _close_all(requests: list[RequestKv]) -> None:
    for request in requests:
        request.close()
    requests.clear()


def _as_numpy(tensor: torch.Tensor) -> FloatArray:
    array: FloatArray = tensor.detach().float().cpu().numpy()
    return array


def _absorbed(row: ByteArray, heads: FloatArray, w_uk: FloatArray) -> AttentionQuery:
    """heads: (H, nope + R), of one request; w_uk: (H, nope, D)."""
    q_nope, q_rope = np.split(heads, [w_uk.shape[1]], axis=1)
    return AttentionQuery(row, absorb_queries(q_nope, w_uk), q_rope)

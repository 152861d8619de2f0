"""Decode steps of a pooled model on a device: hot buffers there, rows from the registered pool, attention over slots.

    with RegisteredStore(store, model.device) as registered, pooled(model, pool, decoder=DeviceDecoder(registered)):
        model.generate(input_ids, attention_mask=attention_mask, max_new_tokens=64)

Knows torch, a PooledCache and sac_runtime.gpu. One wait per step, before its rows are published; none per layer. On a CPU it runs
in Triton's interpreter, which is for tests."""

import torch

from sac_runtime.errors import GeometryError
from sac_runtime.fetch.hot_buffer import Counters
from sac_runtime.fetch.residency import Residency
from sac_runtime.gpu.attention import SlotAttention
from sac_runtime.gpu.buffers import BatchBuffers, BatchShape
from sac_runtime.gpu.pack import pack_rows
from sac_runtime.gpu.registration import RegisteredStore
from sac_runtime.gpu.rows import place_newest, write_back
from sac_runtime.gpu.swap import swap_of
from sac_runtime.models.cache import PooledCache


class DeviceDecoder:
    """Makes a DeviceBatch where a batch begins to decode. store: that of the pool, registered with the model's device."""

    def __init__(self, store: RegisteredStore) -> None:
        self.store = store

    def begin(self, cache: PooledCache) -> "DeviceBatch":
        """Raises GeometryError for a store that is not the pool's, another residency than sparse, or rows of another format."""
        if cache.pool.store is not self.store.store:
            raise GeometryError("device decoder: the registered store is not the pool's; register pool.store")
        if cache.config.residency is not Residency.SPARSE:
            raise GeometryError(
                f"device decoder: residency={cache.config.residency} must be sparse; others decode on the CPU"
            )
        return DeviceBatch(self.store, cache)


class DeviceBatch:
    """The steps of one batch, whose sequences grow in the pool."""

    def __init__(self, store: RegisteredStore, cache: PooledCache) -> None:
        config, geometry, device = cache.config, cache.pool.geometry, store.device
        tokens = min(cache.model.max_tokens, geometry.num_blocks * geometry.block_tokens)
        num_requests, block_tokens = len(cache.sequences), geometry.block_tokens
        shape = BatchShape(config.num_layers, num_requests, config.top_k, config.capacity, tokens, block_tokens)
        self._store = store
        self._cache = cache
        self._buffers = BatchBuffers(shape, store.layout, device)
        self._swap = swap_of(store, self._buffers)
        projections = [[torch.from_numpy(part).to(device) for part in parts] for parts in cache.model.projections]
        self._projections = projections
        self._attention = SlotAttention(self._buffers, len(projections[0][0]))
        self._first_rows = [cache.sequences[0].layer(layer).first_row for layer in range(config.num_layers)]
        self._first_rows_there = torch.tensor(self._first_rows, device=device)
        lengths = [len(sequence) - 1 for sequence in cache.sequences]
        self._lengths = torch.tensor(lengths, dtype=torch.int32, device=device)
        self._refused = torch.zeros(num_requests, dtype=torch.int32, device=device)
        self._placed_tokens = [0] * num_requests

    def begin_step(self) -> None:
        """A new token enters each sequence; its rows come layer by layer."""
        self._lengths += 1
        for request, sequence in enumerate(self._cache.sequences):
            where = sequence.layer(0)
            if where.num_tokens != self._placed_tokens[request]:
                self._buffers.place(request, where)
                self._placed_tokens[request] = where.num_tokens

    def decode(
        self,
        layer: int,
        newest: tuple[torch.Tensor, torch.Tensor],
        query: torch.Tensor,
        attention_mask: torch.Tensor,
        scale: float,
        indices: torch.Tensor,
    ) -> torch.Tensor:
        """Shapes as PooledCache.decode; newest: latents (B, 1, 1, D) and RoPE keys (B, 1, 1, R). Returns (B, 1, H, v)."""
        w_uk, w_uv = self._projections[layer]
        heads, nope = query[:, :, 0].float(), w_uk.shape[1]
        topk, counts = self._chosen_tokens(attention_mask, indices)
        plan = self._swap.fetch(layer, topk, counts, self._lengths, self._first_rows[layer])
        self._refused |= plan.status
        rows = pack_rows(self._store.layout, newest[0][:, 0, 0], newest[1][:, 0, 0])
        place_newest(self._buffers, layer, rows, self._lengths)
        absorbed = torch.einsum("bhn,hnd->bhd", heads[..., :nope], w_uk).contiguous()
        output = self._attention.attend(layer, absorbed, heads[..., nope:].contiguous(), plan.slots, scale)
        return torch.einsum("bhd,hvd->bhv", output, w_uv).to(query).unsqueeze(1)

    def write_back(self) -> None:
        """End a step: the new rows into the pool, where publication then finds them. Waits for the device.
        Raises GeometryError if a request could not be planned."""
        write_back(self._store, self._buffers, self._first_rows_there, self._lengths)
        if self._refused.any():  # waits
            raise GeometryError(
                f"device decoder: status {self._refused.tolist()} of the requests; see sac_runtime.gpu.buffers"
            )

    def counters(self, layer: int) -> Counters:
        """Of all requests at a layer."""
        return self._buffers.counts(layer)

    def _chosen_tokens(self, attention_mask: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The visible ones of each request's chosen columns as ascending tokens, (B, k) int32, and how many they are."""
        columns = indices[:, 0].long()
        visible = attention_mask[:, 0, 0].gather(1, columns) == 0
        pads = torch.tensor(self._cache.pads, device=columns.device)[:, None]
        tokens = torch.where(visible, columns - pads, torch.iinfo(torch.int32).max).sort(dim=1).values
        topk = torch.full(self._buffers.plan.slots.shape, -1, dtype=torch.int32, device=columns.device)
        topk[:, : tokens.shape[1]] = tokens.to(torch.int32)
        return topk, visible.sum(dim=1, dtype=torch.int32)

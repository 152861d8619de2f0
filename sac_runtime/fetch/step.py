"""One layer of one decode step, as a recipe: score, select, fetch, place, attend. Knows order; moves no bytes itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sac_runtime.fetch.attention import sparse_attention
from sac_runtime.fetch.hot_buffer import Plan
from sac_runtime.fetch.request import (
    RequestKv,
)
from sac_runtime.fetch.topk import top_k
from sac_runtime.rows.layout import ByteArray, FloatArray
from sac_runtime.rows.quantise import unpack_rows


@dataclass(frozen=True, eq=False)
class LayerQuery:
    """What the model gives one request at one layer of a step.

    score: gives the indexer's (length,) fp32 scores, the newest token's included; row: (row_bytes,) uint8, the newest
    token's KV; q_latent: (H, D) absorbed queries; q_rope: (H, R)."""

    score: Callable[[], FloatArray]
    row: ByteArray
    q_latent: FloatArray
    q_rope: FloatArray


def step(layer: int, batch: Sequence[RequestKv], queries: Sequence[LayerQuery], scale: float) -> list[FloatArray]:
    """One layer of one decode step of a batch. begin_step() of each request comes before the first layer, write_back() after
    the last, once for all of them.

    scale: of the softmax. Returns each request's (H, D) attention output. Source: SAC section 4."""
    scores = [query.score() for query in queries]
    chosen = [top_k(each, request.config.top_k) for request, each in zip(batch, scores, strict=True)]
    plans = [request.fetch(layer, each)[0] for request, each in zip(batch, chosen, strict=True)]
    for request, plan, query in zip(batch, plans, queries, strict=True):
        request.place_newest(layer, plan, query.row)
    return [attend(layer, *each, scale) for each in zip(batch, plans, queries, strict=True)]


def attend(layer: int, request: RequestKv, plan: Plan, query: LayerQuery, scale: float) -> FloatArray:
    """Attention of one request over its slots. Returns (H, D)."""
    latent, rope = unpack_rows(request.layout, request.chosen_rows(layer, plan))
    return sparse_attention(query.q_latent, query.q_rope, latent, rope, scale)

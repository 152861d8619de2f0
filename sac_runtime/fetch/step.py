"""One layer of one decode step, as a recipe: score, select, fetch, place, attend. Knows order; moves no bytes itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sac_runtime.errors import GeometryError
from sac_runtime.fetch.attention import sparse_attention
from sac_runtime.fetch.request import RequestKv
from sac_runtime.fetch.topk import top_k
from sac_runtime.memory.store import Plan
from sac_runtime.rows.doors import require_array
from sac_runtime.rows.layout import ByteArray, FloatArray, IntArray
from sac_runtime.rows.quantise import unpack_rows


@dataclass(frozen=True, eq=False)
class AttentionQuery:
    """What the model gives one request at one layer of a step, its entries being chosen.

    row: (row_bytes,) uint8, the newest token's KV; q_latent: (H, D) absorbed queries; q_rope: (H, R)."""

    row: ByteArray
    q_latent: FloatArray
    q_rope: FloatArray


@dataclass(frozen=True, eq=False)
class LayerQuery(AttentionQuery):
    """The same before the choice. score: gives the indexer's (length,) fp32 scores, the newest token's included."""

    score: Callable[[], FloatArray]


class LayerStep(NamedTuple):
    """What one layer of a step did for one request. output: (H, D) attention; topk: (k,) tokens; plan: their slots and misses."""

    output: FloatArray
    topk: IntArray
    plan: Plan


def step(layer: int, batch: Sequence[RequestKv], queries: Sequence[LayerQuery], scale: float) -> list[LayerStep]:
    """One layer of one decode step of a batch. begin_step() of each request comes before the first layer, write_back() after
    the last, once for all of them.

    scale: of the softmax. Raises GeometryError for scores that are not those of the request's tokens. Source: SAC section 4."""
    _require_one_each("queries", queries, batch)
    scores = [query.score() for query in queries]
    for request, each in zip(batch, scores, strict=True):
        require_array("step", "scores", each, np.float32, (request.length,))
    chosen = [top_k(each, request.config.top_k) for request, each in zip(batch, scores, strict=True)]
    return attend_chosen(layer, batch, chosen, queries, scale)


def attend_chosen(
    layer: int, batch: Sequence[RequestKv], chosen: Sequence[IntArray], queries: Sequence[AttentionQuery], scale: float
) -> list[LayerStep]:
    """step() from the choice on, for a model that scores and selects by itself. chosen: (k,) int64 tokens of each request.
    Raises GeometryError."""
    _require_one_each("queries", queries, batch)
    _require_one_each("chosen", chosen, batch)
    plans = [request.fetch(layer, topk)[0] for request, topk in zip(batch, chosen, strict=True)]
    for request, plan, query in zip(batch, plans, queries, strict=True):
        request.place_newest(layer, plan, query.row)
    outputs = [attend(layer, *each, scale) for each in zip(batch, plans, queries, strict=True)]
    return [LayerStep(*each) for each in zip(outputs, chosen, plans, strict=True)]


def attend(layer: int, request: RequestKv, plan: Plan, query: AttentionQuery, scale: float) -> FloatArray:
    """Attention of one request over its slots. Returns (H, D)."""
    latent, rope = unpack_rows(request.layout, request.chosen_rows(layer, plan))
    return sparse_attention(query.q_latent, query.q_rope, latent, rope, scale)


def _require_one_each(name: str, given: Sequence[object], batch: Sequence[RequestKv]) -> None:
    if len(given) != len(batch):
        raise GeometryError(f"step: {len(given)} {name} for {len(batch)} requests; give one for each")

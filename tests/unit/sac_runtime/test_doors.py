"""Every public function of the runtime refuses arrays and numbers that are not what it says, and names both sides.

What numpy would spread, cast or count in silence: one row for many, a stride for a row, another width, two dimensions for one,
float64, `True` for 1."""

from math import inf, nan

import numpy as np
import pytest

from sac_runtime.errors import GeometryError, RowRangeError
from sac_runtime.fetch import indexer
from sac_runtime.fetch.attention import absorb_queries, expand_values, softmax_scale, sparse_attention
from sac_runtime.fetch.hot_buffer import HotBuffer
from sac_runtime.fetch.request import FetchConfig, RequestKv
from sac_runtime.fetch.step import LayerQuery, attend_chosen, step
from sac_runtime.fetch.topk import top_k
from sac_runtime.memory.backing import Backing
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.pool.block_hash import chain_hashes
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.pool import Pool
from sac_runtime.pool.sequence import PoolSequence
from sac_runtime.rows import quantise
from sac_runtime.rows.layout import KvLayout
from sac_runtime.rows.placement import LayerFirst, LayerRows, RowTable

F, U8 = np.float32, np.uint8
FP32, FP8 = KvLayout.fp32(), KvLayout.fp8()


def ones(*shape, dtype=F):
    return np.ones(shape, dtype)


WEIGHTS = {
    "wq_b": ones(16, 6),
    "wk": ones(8, 5),
    "k_norm_weight": ones(8),
    "k_norm_bias": ones(8),
    "w_proj": ones(2, 5),
}
INDEXER = indexer.IndexerWeights(**WEIGHTS)
P = indexer.Precision.FP32


def keys(*shape, scales=None):
    return indexer.IndexKeys(ones(*shape), ones(shape[0]) if scales is None else scales)


DOORS = {
    "a stride for a row": (lambda: quantise.unpack_rows(FP8, ones(2, 704, dtype=U8)), "(2, 704)", "(n, 656)"),
    "rows of another layout": (lambda: quantise.unpack_rows(KvLayout.bf16(), ones(2, 656, dtype=U8)), "(2, 656)", "(n, 1152)"),
    "rows as float32": (lambda: quantise.unpack_rows(FP8, ones(2, 656)), "rows is float32", "must be uint8"),
    "rows of no values": (lambda: quantise.unpack_rows(KvLayout("own", 100, 100), ones(2, 100, dtype=U8)), "'own'", "none of bf16"),
    "latents in float64": (lambda: quantise.pack_rows(FP32, ones(2, 512, dtype=float), ones(2, 64)), "float64", "must be float32"),
    "one RoPE key for two latents": (lambda: quantise.pack_rows(FP32, ones(2, 512), ones(1, 64)), "(1, 64)", "(2, 64)"),
    "half a tile": (lambda: quantise.quantise_tiles(ones(2, 100), quantise.Quantiser.FP32_SGLANG), "(2, 100)", "tiles of 128"),
    "scales of other tiles": (lambda: quantise.dequantise_tiles(ones(2, 256, dtype=U8), ones(1, 2)), "(1, 2)", "(2, 256)"),
    "codes as int64": (lambda: quantise.decode_e4m3(np.array([300])), "codes is int64", "uint8"),
    "bits as int64": (lambda: quantise.decode_bf16(np.array([300])), "bits is int64", "uint16"),
    "values as integers": (lambda: quantise.encode_bf16(np.array([300])), "values is int64", "floating-point"),
    "tokens as int32": (lambda: LayerRows(0, 9).rows(np.array([1, 2], np.int32)), "tokens is int32", "int64"),
    "tokens in two dimensions": (lambda: LayerFirst(1, 9).rows(0, np.zeros((2, 2), np.int64)), "(2, 2)", "one dimension"),
    "half a token": (lambda: LayerRows(0, 9).row(1.5), "token=1.5", "whole number"),
    "half a layer": (lambda: LayerFirst(2, 9).layer(0.5), "layer=0.5", "whole number"),
    "a table as float64": (lambda: RowTable(np.zeros(3), 1, 1), "float64", "int64 of shape (T,)"),
    "rows that are a list": (lambda: FP8.lines_touched([1, 2]), "rows is a list", "integers"),
    "half a stride": (lambda: KvLayout("own", 10, 10.5), "stride_bytes=10.5", "whole number"),
    "scores in float64": (lambda: top_k(np.ones(4), 2), "float64", "float32"),
    "k that is true": (lambda: top_k(ones(4), True), "k=True", "whole number"),
    "a buffer of half a slot": (lambda: HotBuffer(4.5, 2), "capacity=4.5", "whole number"),
    "a preload of less than nothing": (lambda: HotBuffer(4, 2).preload(-1), "num_tokens=-1", "at least 0"),
    "a length of half a token": (lambda: HotBuffer(4, 2).plan(np.array([0]), 2.5), "length=2.5", "whole number"),
    "chosen tokens as a list": (lambda: HotBuffer(4, 2).plan([0]), "topk is a list", "int64"),
    "no layers": (lambda: FetchConfig(0), "num_layers=0", "at least 1"),
    "a residency by name": (lambda: FetchConfig(1, residency="hbm"), "'hbm'", "sparse"),
    "a head of no width": (lambda: softmax_scale(0), "head_dim=0", "at least 1"),
    "a factor that is none": (lambda: softmax_scale(192, nan), "nan", "number above 0"),
    "one RoPE key for three latents": (
        lambda: sparse_attention(ones(2, 8), ones(2, 4), ones(3, 8), ones(1, 4), 1.0), "(1, 4)", "(3, 4)"),
    "one query for two heads": (lambda: sparse_attention(ones(2, 8), ones(1, 4), ones(3, 8), ones(3, 4), 1.0), "(1, 4)", "(2, R)"),
    "latents of another width": (lambda: sparse_attention(ones(2, 8), ones(2, 4), ones(3, 9), ones(3, 4), 1.0), "(3, 9)", "(k, 8)"),
    "weights of one head for two": (lambda: absorb_queries(ones(2, 3), ones(1, 3, 5)), "(1, 3, 5)", "(2, 3, D)"),
    "values of another width": (lambda: expand_values(ones(2, 5), ones(2, 3, 1)), "(2, 3, 1)", "(2, v, 5)"),
    "weights that do not fit": (lambda: indexer.IndexerWeights(**WEIGHTS | {"wk": ones(8, 1)}), "(8, 1)", "(W, 5)"),
    "cos of one token for three": (
        lambda: indexer.index_keys(INDEXER, ones(3, 5), ones(1, 2), ones(1, 2), P), "(1, 2)", "(3, R / 2)"),
    "sin of another width": (lambda: indexer.index_keys(INDEXER, ones(3, 5), ones(3, 2), ones(3, 1), P), "(3, 1)", "(3, 2)"),
    "more RoPE than width": (lambda: indexer.index_keys(INDEXER, ones(3, 5), ones(3, 9), ones(3, 9), P), "9 pairs", "width of 8"),
    "one latent for three": (
        lambda: indexer.index_queries(INDEXER, ones(3, 5), ones(1, 6), ones(3, 2), ones(3, 2), P), "(1, 6)", "(3, 6)"),
    "keys of another width": (
        lambda: indexer.score(indexer.IndexQueries(ones(1, 2, 8), ones(1, 2)), 0, keys(3, 4)), "(3, 4)", "(1, 2, 8)"),
    "a token before the first": (
        lambda: indexer.score(indexer.IndexQueries(ones(1, 2, 8), ones(1, 2)), -1, keys(3, 8)), "token=-1", "from 0 to 0"),
    "one scale for three keys": (
        lambda: indexer.score(indexer.IndexQueries(ones(1, 2, 8), ones(1, 2)), 0, keys(3, 8, scales=ones(1))), "(1,)", "(3,)"),
    "pages of another width": (lambda: indexer.pack_index_pages(keys(70, 64)), "(70, 64)", "(T, 128)"),
    "more tokens than pages": (lambda: indexer.unpack_index_pages(ones(1, 8448, dtype=U8), 70), "num_tokens=70", "to 64"),
    "half a page": (lambda: indexer.unpack_index_pages(ones(1, 4224, dtype=U8), 10), "(1, 4224)", "(n, 8448)"),
    "a batch of prompts": (lambda: chain_hashes(np.arange(128).reshape(2, 64), 64), "(2, 64)", "one dimension"),
    "a root of text": (lambda: chain_hashes(np.arange(64), 64, "model"), "root is a str", "bytes"),
    "half a block": (lambda: chain_hashes(np.arange(64), 0.5), "block_tokens=0.5", "whole number"),
    "half a row": (lambda: MappedStore.anonymous(FP32, 1.5), "num_rows=1.5", "whole number"),
    "no layout": (lambda: MappedStore.anonymous("fp8", 2), "layout is a str", "KvLayout"),
    "more rows than memory": (lambda: MappedStore(STORE._memory, "x", FP32, 10**6), "num_rows=1000000", "exceeds the mapping"),
    "rows as a list": (lambda: STORE.read_rows([0], ones(1, 2304, dtype=U8)), "rows is a list", "int64"),
    "bytes at half an offset": (lambda: STORE.read_bytes(0.5, ones(4, dtype=U8)), "offset=0.5", "whole number"),
    "bytes as float32": (lambda: STORE.write_bytes(0, ones(4)), "values: is float32", "uint8"),
    "slots in one dimension": (lambda: STORE.slot_gather(HotBuffer(4, 2), ones(4, dtype=U8)), "(4,)", "two dimensions"),
}  # fmt: skip

STORE = MappedStore.anonymous(FP32, 300)


@pytest.mark.parametrize("name", DOORS)
def test_what_numpy_would_spread_or_cast_is_refused_with_both_sides_named(name):
    call, given, wanted = DOORS[name]
    with pytest.raises(GeometryError) as caught:
        call()
    assert given in str(caught.value)
    assert wanted in str(caught.value)


def request(**sizes):
    return RequestKv(
        Backing(STORE, LayerFirst(1, 300)),
        FetchConfig(1, 16, 32),
        **{"num_tokens": 100, "tokens_capacity": 300} | sizes,
    )


def query(scores, row=None):
    return LayerQuery(np.zeros(2304, U8) if row is None else row, ones(2, 512), ones(2, 64), lambda: scores)


@pytest.mark.parametrize("length", [50, 100, 102])
def test_scores_of_another_length_than_the_sequence_are_refused_with_both_named(length):
    with request() as kv:
        kv.begin_step()
        with pytest.raises(GeometryError, match=rf"step: scores is float32 of shape \({length},\).*\(101,\)"):
            step(0, [kv], [query(ones(length))], 1.0)


def test_a_step_whose_scores_are_all_masked_attends_to_nothing():
    with request() as kv:
        kv.begin_step()
        (result,) = step(0, [kv], [query(np.full(101, -inf, F))], 1.0)
    assert result.topk.size == 0
    assert (result.output == 0).all() and result.output.shape == (2, 512)


def test_a_batch_and_what_belongs_to_it_have_one_length():
    with request() as kv:
        kv.begin_step()
        with pytest.raises(GeometryError, match="2 queries for 1 requests"):
            step(0, [kv], [query(ones(101))] * 2, 1.0)
        with pytest.raises(GeometryError, match="0 chosen for 1 requests"):
            attend_chosen(0, [kv], [], [query(ones(101))], 1.0)


def test_a_layer_a_row_and_a_length_of_a_request_are_checked():
    with request() as kv:
        kv.begin_step()
        plan, _ = kv.fetch(0, np.array([100]))
        for layer in (-1, 1):
            with pytest.raises(RowRangeError, match=f"layer={layer} lies outside"):
                kv.fetch(layer, np.array([100]))
        with pytest.raises(GeometryError, match=r"row is uint8 of shape \(1,\); .*\(2304,\)"):
            kv.place_newest(0, plan, ones(1, dtype=U8))
        with pytest.raises(GeometryError, match=r"values is uint8 of shape \(2, 1\); .*\(n, 2304\)"):
            kv.write(0, 0, ones(2, 1, dtype=U8))
    for sizes in ({"num_tokens": -1}, {"tokens_capacity": 300.5}):
        with pytest.raises(GeometryError, match="must be a whole number"):
            request(**sizes)


def test_a_factor_up_to_1_leaves_the_scale_alone():
    assert softmax_scale(192, 0.5) == softmax_scale(192, 1.0) == 192**-0.5
    assert softmax_scale() == pytest.approx(0.13523377886)


def pool_without_keys():
    geometry = PoolGeometry(KvLayout.bf16(), 1, 2, 64, 4)
    store = MappedStore.anonymous(geometry.layout, geometry.num_rows, metadata_bytes=geometry.metadata_bytes)
    return Pool.create(store, host=0, num_hosts=1, num_layers=2, block_tokens=64, blocks_per_host=4)


def test_a_pool_without_indexer_keys_publishes_a_sequence():
    with pool_without_keys() as pool, pool.lease() as lease:
        sequence = PoolSequence(pool, lease)
        sequence.extend(np.arange(64))
        for layer in range(2):
            sequence.write(layer, 0, np.zeros((64, 1152), U8))
        sequence.publish_full(lambda layer, first, end: np.zeros((end - first, 0), U8))
        assert pool.num_published == 1


def test_a_pool_refuses_arrays_of_other_shapes_and_tells_both():
    with pool_without_keys() as pool, pool.lease() as lease:
        sequence = PoolSequence(pool, lease)
        blocks = pool.allocate(2)
        refused = [
            (lambda: lease.lookup(np.zeros((2, 2), np.int64)), "hashes is int64", "uint64 of shape (n, 2)"),
            (lambda: lease.prefix(np.zeros(2, np.uint64)), "(2,)", "(n, 2)"),
            (lambda: pool.publish(blocks, np.zeros((1, 2), np.uint64)), "(1, 2)", "(2, 2)"),
            (lambda: pool.write(blocks.reshape(1, 2), 0, np.zeros((64, 1152), U8)), "(1, 2)", "one dimension"),
            (lambda: pool.write(blocks, 0, np.zeros((64, 1), U8)), "(64, 1)", "(64, 1152)"),
            (lambda: pool.write(blocks, 0.0, np.zeros((64, 1152), U8)), "layer=0.0", "whole number"),
            (lambda: pool.row_table(blocks.reshape(1, 2)), "(1, 2)", "one dimension"),
            (lambda: pool.num_tokens(blocks * 1.0), "float64", "integers"),
            (lambda: pool.allocate(True), "count=True", "whole number"),
            (lambda: sequence.extend(np.arange(64.0)), "float64", "integers"),
            (lambda: sequence.adopt_prefix(np.zeros((2, 64), np.int64)), "(2, 64)", "one dimension"),
            (lambda: sequence.write(0, 0, np.zeros((64, 1), U8)), "(64, 1)", "(n, 1152)"),
        ]  # fmt: skip
        for call, given, wanted in refused:
            with pytest.raises(GeometryError) as caught:
                call()
            assert given in str(caught.value) and wanted in str(caught.value), str(caught.value)

"""Coherence in the pool: published times are charged where KV is written and read, by whoever moves it."""

from dataclasses import replace

import pytest

from emulation.errors import InputError
from emulation.serving.cluster import simulate
from emulation.serving.coherence import WAYS, CoherenceCosts, coherence_costs
from emulation.serving.costs import CostModel
from emulation.serving.routes import ClusterRoutes
from emulation.serving.spec import ClusterSpec
from emulation.serving.workload import ClosedLoop
from emulation.timing.profile import load_profile

SPEC = ClusterSpec("cxl")
TOKEN = SPEC.model.token_bytes + SPEC.model.index_bytes
PUBLISH_NS, FRESH_NS = (
    {"non_temporal": 2410, "clflush": 8500, "uncached": 281560},
    {"clflush": 5980, "uncached": 166490},
)


def cost(way, cached):
    spec = replace(SPEC, coherence=way)
    return CostModel(spec, ClusterRoutes(spec)).of_request(32768, 64, cached)


@pytest.mark.parametrize("way", ["non_temporal", "clflush", "uncached"])
def test_a_prefill_is_charged_the_published_time_for_what_it_writes(way):
    added_ns = cost(way, 0).load_ns - cost("bypass", 0).load_ns
    assert added_ns == pytest.approx(PUBLISH_NS[way] * 32768 * TOKEN / 16384, rel=1e-3)


@pytest.mark.parametrize(
    ("way", "fresh_by"), [("non_temporal", "clflush"), ("clflush", "clflush"), ("uncached", "uncached")]
)
def test_a_cached_prefix_is_charged_the_published_time_for_the_keys_that_are_read_fresh(way, fresh_by):
    cached = 32767
    added_ns = cost(way, cached).load_ns - cost("bypass", cached).load_ns
    one_token_ns = PUBLISH_NS[way] * TOKEN / 16384
    assert added_ns == pytest.approx(
        FRESH_NS[fresh_by] * cached * SPEC.model.index_bytes / 16384 + one_token_ns, rel=1e-3
    )


def test_past_the_caches_only_the_directory_costs_a_line_per_block():
    costs = SPEC.coherence_costs
    assert costs.publish_token_ns == pytest.approx(2410 / 16384 * 64 / 64)
    assert costs.fresh_token_ns == pytest.approx(5980 / 16384 * 64 / 64)


def test_a_decoded_token_s_row_is_published_in_its_step():
    figures = [
        simulate(replace(SPEC, coherence=way), ClosedLoop(16, 16, 32768, 64)).recorder.summary().tpot_ms.mean
        for way in WAYS
    ]
    assert figures == sorted(figures)
    assert figures[-1] > figures[0] + 1  # 1.2 ms per request and step, uncached


def test_what_is_in_no_shared_pool_or_has_no_times_is_charged_nothing():
    for tier in ("hbm", "dram", "rdma"):
        assert ClusterSpec(tier, coherence="uncached").coherence_costs == CoherenceCosts()
    direct = load_profile("cxl-direct-140@gpu")
    assert replace(SPEC, profile=direct, coherence="uncached").coherence_costs == CoherenceCosts()
    assert coherence_costs(None, "clflush", 1, 1) == CoherenceCosts()


def test_a_way_that_is_none_is_refused():
    with pytest.raises(
        InputError, match="coherence='hope' is unknown; take one of bypass, non_temporal, clflush, uncached"
    ):
        ClusterSpec("cxl", coherence="hope")

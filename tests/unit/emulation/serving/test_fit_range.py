"""A run that leaves what the model was fitted to says where."""

from dataclasses import replace

import pytest

from emulation.report.serving import setting_words
from emulation.serving.fit_range import outside_fit
from emulation.serving.sweep import Arrivals, SweepAxes, run_scenario, scenarios
from emulation.serving.testbed import cluster_on
from emulation.timing.profile import load_profile

INSIDE = {"contexts": (16384, 131072), "outputs": (1024, 1024), "concurrency": 64}


def test_the_paper_s_own_runs_lie_within_the_fit():
    for tier in ("hbm", "dram", "cxl", "rdma"):
        assert outside_fit(replace(cluster_on(), tier=tier), **INSIDE) == ()


@pytest.mark.parametrize(
    ("spec", "run", "said"),
    [
        ({}, {"contexts": (16383, 16383)}, ("context 16383 (fitted: 16384 to 131072)",)),
        ({}, {"contexts": (131073, 131073)}, ("context 131073 (fitted: 16384 to 131072)",)),
        ({}, {"contexts": (2, 131072)}, ("context 2 to 131072 (fitted: 16384 to 131072)",)),
        ({}, {"outputs": (1, 1024)}, ("output 1 to 1024 (fitted: 1024)",)),
        ({}, {"concurrency": 193}, ("concurrency 193 (fitted: 8 to 192)",)),
        ({}, {"contexts": (163840, 163840)}, (
            "context 163840 (fitted: 16384 to 131072)",
            "up to 164864 tokens, more than the 163840 of DeepSeek-V3.2",
        )),
        ({"gpu": "b200", "model": "glm-5"}, {}, (
            "model GLM-5 (fitted: DeepSeek-V3.2)",
            "GPU B200 (fitted: H20)",
        )),
        ({"nics": 4}, {}, ("RDMA as 'sac' with 4 NICs (fitted: 'sac' with 8)",)),
    ],
)  # fmt: skip
def test_each_departure_is_named_beside_what_was_fitted(spec, run, said):
    assert outside_fit(replace(cluster_on(**spec), tier="rdma"), **{**INSIDE, **run}) == said


def test_a_record_and_its_table_say_what_they_are_of():
    axes = SweepAxes(tiers=("cxl", "rdma"), contexts=(204800,), concurrencies=(8,))
    base = cluster_on(gpu="h200", rdma="mooncake", nic_gbit=400)
    records = [run_scenario(scenario)[0] for scenario in scenarios(axes, Arrivals(num_prompts=8), base)]
    cxl, rdma = records
    assert (cxl.model, cxl.gpu, cxl.gpus, cxl.rdma, cxl.nics, cxl.nic_gbit) == (
        "DeepSeek-V3.2",
        "H200",
        8,
        None,
        None,
        None,
    )
    assert (rdma.rdma, rdma.nics, rdma.nic_gbit) == ("mooncake", 8, 400)
    assert "outside the fit" in cxl.note
    words = setting_words(records).splitlines()
    assert words[:2] == ["DeepSeek-V3.2 on 8 H200 per server", "RDMA as 'mooncake', 8 NICs of 400 Gb/s per server"]
    assert "outside the fit: context 204800 (fitted: 16384 to 131072)" in words


def test_a_profile_that_was_given_brings_its_own_wire():
    spec = replace(cluster_on(), tier="rdma", profile=load_profile("rdma-400g@gpu"))
    assert spec.nic_gbit == 400
    assert spec.prefetch_profile.adapter.read_bytes_per_ns == 50


def test_another_profile_and_another_engine_were_not_fitted():
    spec = replace(cluster_on(), profile=load_profile("cxl-direct-140@gpu"), engine="chunked")
    assert outside_fit(spec, **INSIDE) == (
        "profile cxl-direct-140@gpu in place of the fitted one",
        "engine chunked (fitted: prefill-first)",
    )
    assert outside_fit(replace(spec, tier="hbm", engine="prefill-first"), **INSIDE) == ()

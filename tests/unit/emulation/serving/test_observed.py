"""A real engine's benchmark beside the model: its files are read as they mean, and refused in words."""

import json
from dataclasses import asdict

import jsonschema
import numpy as np
import pytest

from emulation.calibration.residuals import shipped_residuals
from emulation.errors import InputError
from emulation.report.observed import beside_table
from emulation.report.tables import print_table
from emulation.schemas import SCHEMAS
from emulation.serving.beside import ObservedDocument, beside, run_of, workload_of
from emulation.serving.observed import read_observed
from emulation.serving.sweep import Arrivals, SweepAxes, run_scenario, scenarios
from emulation.serving.testbed import cluster_on

RUN = {
    "backend": "sglang",
    "dataset_name": "random",
    "request_rate": float("inf"),
    "max_concurrency": 2,
    "duration": 4.0,
    "completed": 3,
    "input_lens": [16384, 16384, 20000, 16384],
    "output_lens": [3, 1, 5, 0],
    "ttfts": [0.5, 0.7, 0.9, 0.0],
    "itls": [[0.04, 0.06], [], [0.05, 0.05, 0.05, 0.05], []],
    "generated_texts": ["", "", "", ""],
    "errors": ["", "", "", "timed out"],
}
PRINTED = """
============ Serving Benchmark Result ============
Successful requests:                     100
Maximum request concurrency:             8
Request rate configured (RPS):           inf
Benchmark duration (s):                  61.50
Total input tokens:                      1638400
Total generated tokens:                  12800
Request throughput (req/s):              1.63
Output token throughput (tok/s):         208.13
---------------Time to First Token----------------
Mean TTFT (ms):                          812.40
Median TTFT (ms):                        790.10
P99 TTFT (ms):                           1432.00
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          39.20
P99 TPOT (ms):                           52.00
==================================================
"""


def written(tmp_path, text, name="bench.json"):
    path = tmp_path / name
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def altered(**changes):
    return {**RUN, **changes}


def test_each_request_counts_and_those_that_failed_do_not(tmp_path):
    observed = read_observed(written(tmp_path, RUN))
    assert (observed.source, observed.completed, observed.failed, observed.per_request) == (
        "sglang.bench_serving",
        3,
        1,
        True,
    )
    assert observed.lengths == ((16384, 3), (16384, 1), (20000, 5))
    assert (observed.max_concurrency, observed.request_rate) == (2, None)
    figures = observed.figures
    assert figures["mean_ttft_ms"] == pytest.approx(700)
    assert figures["p99_ttft_ms"] == pytest.approx(np.percentile([500, 700, 900], 99))
    assert figures["mean_tpot_ms"] == pytest.approx(50)  # (100 / 2 and 200 / 4) ms
    assert figures["mean_itl_ms"] == pytest.approx(300 / 6)
    assert figures["mean_e2e_latency_ms"] == pytest.approx((600 + 700 + 1100) / 3)
    assert figures["output_throughput"] == pytest.approx(9 / 4)


def test_of_several_runs_in_a_file_the_last_is_taken_and_said(tmp_path):
    text = "\n".join(json.dumps(run) for run in (altered(ttfts=[9, 9, 9, 9]), RUN))
    observed = read_observed(written(tmp_path, text))
    assert (observed.run, observed.runs) == (2, 2)
    assert observed.figures["mean_ttft_ms"] == pytest.approx(700)


def test_vllm_s_file_is_the_same_by_other_names(tmp_path):
    run = {**{key: value for key, value in RUN.items() if key != "dataset_name"}, "backend": "vllm", "model_id": "m"}
    run |= {"request_rate": "inf", "max_concurrency": None}
    observed = read_observed(written(tmp_path, json.dumps(run, indent=2)))
    assert (observed.source, observed.max_concurrency, observed.request_rate) == ("vllm bench serve", None, None)
    assert observed.figures == read_observed(written(tmp_path, RUN)).figures


def test_what_a_benchmark_printed_gives_its_summary(tmp_path):
    observed = read_observed(written(tmp_path, "some log line\n" + PRINTED))
    assert (observed.source, observed.per_request, observed.completed) == ("a printed summary", False, 100)
    assert set(observed.lengths) == {(16384, 128)}
    assert observed.max_concurrency == 8
    assert observed.figures["p99_ttft_ms"] == 1432.0
    assert "p90_ttft_ms" not in observed.figures


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("nothing", "line 1: is no JSON"),
        ("[1]", "holds no run; known are sglang.bench_serving's --output-file"),
        ("{}", "lacks input_lens, output_lens, ttfts, itls, and completed"),
        (altered(itls=[[]]), "itls does not have 4 entries, as ttfts has"),
        (altered(errors=["x"] * 4), "none of 4 requests ended well"),
        (altered(ttfts=[-0.5, 0.7, 0.9, 0]), r"ttfts\[0\]='-0.5' must be seconds, at least 0"),
        (altered(ttfts=["0.5", 0.7, 0.9, 0]), r"ttfts\[0\]='0.5' must be seconds"),
        (altered(itls=[0.1, [], [], []]), r"itls\[0\]='0.1' must be a list of seconds"),
        (altered(input_lens=[16384.0, 1, 1, 1]), r"input_lens\[0\]='16384.0' must be a whole number"),
        (altered(output_lens=[True, 1, 1, 1]), r"output_lens\[0\]='True' must be a whole number"),
        (altered(duration=float("nan")), "duration='nan' must be a number"),
        (altered(max_concurrency=0), "max_concurrency='0' must be a number of at least 1"),
        (altered(request_rate="fast"), "request_rate='fast' must be a number"),
    ],
)
def test_a_file_that_is_none_is_refused_with_field_value_and_rule(tmp_path, run, said):
    with pytest.raises(InputError, match=said):
        read_observed(written(tmp_path, run))


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(InputError, match="No such file or directory"):
        read_observed(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="name a text file in UTF-8"):
        read_observed(tmp_path / "binary")


def test_the_observed_requests_are_what_is_served(tmp_path):
    observed = read_observed(written(tmp_path, RUN))
    workload = workload_of(observed)
    assert [(request.prompt_len, request.output_len) for request in workload.requests()] == list(observed.lengths)
    assert workload.max_concurrency == 2
    at_rate = read_observed(written(tmp_path, altered(request_rate=2.0, max_concurrency=None)))
    assert (workload_of(at_rate).request_rate, workload_of(at_rate).max_concurrency) == (2.0, None)
    both = read_observed(written(tmp_path, altered(request_rate=2.0)))
    with pytest.raises(InputError, match=r"max_concurrency=2 and request_rate=2\.0 together are not modelled"):
        workload_of(both)


def test_predicted_stands_beside_observed_by_percentile_and_no_ratio_is_drawn(tmp_path, capsys):
    observed = read_observed(written(tmp_path, RUN))
    traffic = Arrivals(observed.completed, trace=workload_of(observed))
    (scenario,) = scenarios(SweepAxes(tiers=("cxl",)), traffic, cluster_on())
    record, _ = run_scenario(scenario, residuals=shipped_residuals(), most_variants=10)
    tier = beside(observed, record)
    by_name = {figure.name: figure for figure in tier.figures}
    assert {
        f"{one}_{of}_ms" for one in ("mean", "median", "p90", "p95", "p99") for of in ("ttft", "tpot", "itl")
    } <= set(by_name)
    for figure in tier.figures:
        assert figure.within is (figure.predicted.low <= figure.observed <= figure.predicted.high)
    document = json.loads(json.dumps(asdict(ObservedDocument(run_of(observed, "bench.json"), [tier]))))
    jsonschema.validate(document, SCHEMAS["serve"]())
    print_table(beside_table(run_of(observed, "bench.json"), tier))
    words = " ".join(capsys.readouterr().out.split())
    assert "sglang.bench_serving, run 1 of 1, 3 requests (1 failed), 2 in flight, each by itself" in words
    assert "no ratio is drawn" in words

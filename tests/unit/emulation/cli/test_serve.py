"""`cxlbed serve` from its options to its records, and the metrics it reports."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emulation.cli.app import app
from emulation.cli.options import whole_numbers
from emulation.errors import InputError
from emulation.serving.metrics import GapHistogram, Recorder
from emulation.serving.spec import ClusterSpec
from emulation.serving.sweep import Arrivals, SweepAxes, scenarios
from emulation.serving.workload import Request
from emulation.timing.profile import load_profile
from sac_runtime.errors import TraceError
from sac_runtime.traces.format import TraceHeader, TraceStep, write_trace
from tests.support.power_law import measure_misses, power_law_steps

EXCERPT = Path(__file__).parents[1] / "serving" / "mooncake_excerpt.jsonl"
ASKED_FIELDS = {
    "tier", "context_tokens", "concurrency", "output_tokens", "devices", "hot_buffer", "request_throughput",
    "output_throughput", "hit_rate", "bytes_by_link", "utilisation_by_link", "label",
    *(f"{which}_{name}_ms" for which in ("mean", "median", "p90", "p99") for name in ("ttft", "tpot", "itl", "e2e_latency")),
}  # fmt: skip


def serve(tmp_path, options):
    path = tmp_path / "out.json"
    result = CliRunner().invoke(app, ["serve", "--json", str(path), *options.split()], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(path.read_text()), result.output


def test_lists_are_swept_over_their_product(tmp_path):
    options = "--tier hbm,cxl --context 16K,32K --concurrency 8,16 --hot-buffer 4096,6144 --devices 1,2 --requests 16"
    records = serve(tmp_path, options)[0]["records"]
    assert len(records) == 2 * 2 * (1 + 2 * 2)  # hbm has neither buffer nor devices
    assert len({json.dumps(record["tier"]) + str(record["hot_buffer"]) for record in records}) == 3


def test_records_have_the_fields_asked_for_and_figures_that_agree(tmp_path):
    record = serve(tmp_path, "--tier cxl --context 32768 --requests 64")[0]["records"][0]
    assert record.keys() >= ASKED_FIELDS
    assert record["label"] == "modelled"
    assert (record["concurrency"], record["context_tokens"], record["output_tokens"]) == (64, 32768, 1024)
    assert record["output_throughput"] == pytest.approx(1024 * record["request_throughput"])
    latency_ms = record["mean_ttft_ms"] + 1023 * record["mean_tpot_ms"]
    assert record["mean_e2e_latency_ms"] == pytest.approx(latency_ms)
    assert sum(record["seconds_a_request"].values()) == pytest.approx(record["mean_e2e_latency_ms"] / 1e3)


@pytest.mark.parametrize("options", ["--tier cxl", "--compare --concurrency 8"])
def test_json_on_standard_output_is_all_that_stands_there(options, tmp_path):
    plots = f"--plots {tmp_path}"
    result = CliRunner().invoke(app, ["serve", "--json", "-", *f"{options} --context 16K --requests 8 {plots}".split()])
    assert result.exit_code == 0
    assert json.loads(result.stdout)


def test_same_options_same_bytes(tmp_path):
    options = "--tier rdma --context 16K --requests 40 --rate 2 --seed 7"
    texts = []
    for _ in range(2):
        serve(tmp_path, options)
        texts.append((tmp_path / "out.json").read_bytes())
    assert texts[0] == texts[1]


def test_what_does_not_fit_a_tier_is_a_record_that_says_so(tmp_path):
    found, output = serve(tmp_path, "--tier hbm,cxl --context 1M,128K --requests 32 --concurrency 32")
    notes = {(record["tier"], record["context_tokens"]): record for record in found["records"]}
    assert not notes["hbm", 1 << 20]["fits"] and "HBM for KV" in notes["hbm", 1 << 20]["note"]
    assert notes["hbm", 131072]["note"].startswith("only 8 of 32 fit at once")
    assert notes["cxl", 1 << 20]["fits"]
    assert notes["hbm", 1 << 20].keys() == notes["cxl", 1 << 20].keys()
    assert notes["hbm", 1 << 20]["output_throughput"] is None
    assert "only 8 of" in " ".join(output.split())


def test_a_trace_is_replayed_with_its_reuse(tmp_path):
    record = serve(tmp_path, f"--tier cxl --trace {EXCERPT} --requests 48 --servers 2")[0]["records"][0]
    assert record["completed"] == 48
    assert record["context_tokens"] is record["concurrency"] is None
    assert 0 < record["prefix_hit_rate"] < 1


def replayed(tmp_path, lines, options=""):
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return serve(tmp_path, f"--tier cxl --trace {path} {options}")[0]["records"][0]


def trace_lines(*times, **changes):
    fields = {"input_length": 4096, "output_length": 50, "hash_ids": list(range(8))}
    return [{"timestamp": at} | fields | changes for at in times]


def test_a_trace_is_replayed_whole_and_once_unless_more_is_asked_for(tmp_path):
    lines = trace_lines(*range(0, 10_000, 1000))
    once, looped = replayed(tmp_path, lines), replayed(tmp_path, lines, "--requests 15")
    assert (once["requests"], looped["requests"]) == (10, 15)
    assert "looped" not in once["note"]
    assert looped["note"].endswith("the trace's 10 requests are looped 1.5 times")


def test_a_trace_of_absolute_times_in_any_order_gives_what_its_sorted_twin_gives(tmp_path):
    times = (0, 1000, 5000, 60_000)
    twin = replayed(tmp_path, trace_lines(*times))
    record = replayed(tmp_path, trace_lines(*(1_700_158_623_979 + at for at in reversed(times))))
    figures = ("duration", "mean_ttft_ms", "prefix_hit_rate", "request_throughput", "bytes_by_link")
    assert {name: record[name] for name in figures} == {name: twin[name] for name in figures}
    assert record["trace"]["out_of_order"] == 3


def test_half_a_prompt_in_blocks_of_64_is_half_found(tmp_path):
    first, second = trace_lines(0, 60_000, hash_ids=list(range(64)))
    second = second | {"hash_ids": [*range(32), *range(100, 132)]}
    assert replayed(tmp_path, [first, second])["prefix_hit_rate"] == 2048 / 8192


def test_what_a_trace_has_no_reuse_for_is_told_as_it_is(tmp_path):
    assert replayed(tmp_path, trace_lines(0, 1000, hash_ids=[]))["note"].endswith(
        "the trace records no hash ids: no reuse"
    )
    own = [line | {"hash_ids": [8 * n + block for block in range(8)]} for n, line in enumerate(trace_lines(0, 1000))]
    assert replayed(tmp_path, own)["note"].endswith("the trace has no reuse")


def test_what_a_model_cannot_take_is_left_out_of_a_trace_with_a_count(tmp_path):
    lines = [*trace_lines(0), *trace_lines(1000, input_length=163_840, hash_ids=[])]
    record = replayed(tmp_path, lines)
    assert (record["completed"], record["trace"]["above_context"]) == (1, 1)
    assert "1 of 2 requests exceed the model's context: left out" in record["note"]


def test_settings_that_a_trace_does_not_have_are_null(tmp_path):
    record = replayed(tmp_path, trace_lines(0))
    assert record["round"] is record["seed"] is record["output_tokens"] is None


def test_misses_of_a_recorded_trace_take_the_place_of_the_law(tmp_path):
    path, context_tokens = tmp_path / "topk.trace", 16384
    steps = list(power_law_steps(context_tokens, 256, 0.38, 400, seed=1))
    header = TraceHeader(1, 256, (context_tokens,), "test")
    write_trace(path, header, (TraceStep(number, ((step,),)) for number, step in enumerate(steps)))
    options = "--tier cxl --context 128K --requests 8 --concurrency 8"
    by_law, by_trace = (
        serve(tmp_path, f"{options}{more}")[0]["records"][0]["hit_rate"] for more in ("", f" --topk-trace {path}")
    )
    replayed_misses = measure_misses(steps, 768, 256)[200:].mean() / 256
    assert by_trace == pytest.approx(1 - replayed_misses, abs=0.002)
    assert by_trace != pytest.approx(by_law, abs=0.002)


def test_pictures_are_drawn(tmp_path):
    serve(tmp_path, f"--tier dram,cxl --context 16K,32K --concurrency 8,16 --requests 16 --plots {tmp_path}")
    drawn = {path.stem for path in tmp_path.glob("*.svg")}
    assert drawn == {"throughput_by_context", "throughput_by_concurrency", "latency_cdf", "where_the_time_goes"}


def test_compare_prints_its_answer_and_writes_it(tmp_path):
    found, output = serve(tmp_path, "--compare --context 128K --concurrency 32,64")
    comparison = found["comparisons"][0]
    assert comparison["verdict"][0] in " ".join(output.split())
    assert {point["latency_ns"] for point in comparison["grid"]} == {140, 220, 400, 750}


@pytest.mark.parametrize("option", ["--devices 1,2", "--rate 3", "--profile sac-gpu-cxl", "--round 1"])
def test_what_means_nothing_to_compare_is_refused(tmp_path, option):
    with pytest.raises(InputError, match="compare"):
        serve(tmp_path, f"--compare --context 32K {option}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--tier tape", "tier='tape' is unknown"),
        ("--burstiness 0.5", "give --rate"),
        ("--rate 0", "request_rate=0.0 must be a number from"),
        ("--rate inf", "request_rate=inf must be a number from"),
        ("--rate nan", "request_rate=nan must be a number from"),
        (f"--trace {EXCERPT} --rate 0", "rate_scale=0.0 must be a number above 0"),
        ("--hbm-kv -5", "hbm_kv_gb=-5.0 must be a number of GB from 0.001 to"),
        ("--hbm-kv 1e300", r"hbm_kv_gb=1e\+300 must be a number of GB from"),
        ("--nic-gbit 1e-300", "nic_gbit=1e-300 must be a number of Gb/s from 0.001 to"),
        ("--servers 1M", "num_servers=1048576 must be at most 4096"),
        ("--gpus 1M", "num_gpus=1048576 must be at most 4096"),
        ("--devices 1M", "num_devices=1048576 must be at most 4096"),
        ("--requests 99999999999999", "must be at most 1000000000"),
        ("--concurrency 99999999999999999999999", "must be at most 1000000000"),
        ("--context ９", "must be whole numbers"),
        ("--context 1_0", "must be whole numbers"),
        ("--output=", "output='' must be whole numbers"),
        ("--profile=", "name='' is unknown"),
        ("--block-tokens 16", "block-tokens=16 is of a trace's hash ids; give --trace"),
        ("--requests 10,20", "requests='10,20' must be one number"),
        ("--prefixes 10,20", "prefixes='10,20' must be one number"),
        ("--hot-buffer 100", "hot_buffer=100 is below top_k"),
    ],
)
def test_options_that_cannot_be_are_refused_in_words(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        serve(tmp_path, options)


def test_a_top_k_trace_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TraceError, match="trace absent: No such file or directory; name a file that can be read"):
        serve(tmp_path, "--topk-trace absent")


def test_a_profile_goes_to_its_tier_and_a_cpus_is_read_by_the_gpu(tmp_path):
    options = "--tier dram,cxl --context 32K --requests 64 --profile cxl-switched-220,cxl-switched-750"
    records = serve(tmp_path, options)[0]["records"]
    assert [record["profile"] for record in records] == [
        "sac-gpu-dram",
        "cxl-switched-220@gpu",
        "cxl-switched-750@gpu",
    ]
    assert records[1]["mean_tpot_ms"] < records[2]["mean_tpot_ms"]


def test_a_profile_of_no_tier_served_is_refused():
    axes = SweepAxes(tiers=("dram",), profiles=(load_profile("sac-gpu-cxl"),))
    with pytest.raises(InputError, match="profile 'sac-gpu-cxl': tier='cxl' is none of those served"):
        list(scenarios(axes, Arrivals(), ClusterSpec("dram")))


@pytest.mark.parametrize("text", ["", "12x", "1,,2", "-5", "0"])
def test_numbers_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="serve: context="):
        whole_numbers("serve", "context", text)


def test_k_and_m_are_powers_of_two():
    assert whole_numbers("serve", "context", "16K, 1M,5,16k") == (16384, 1 << 20, 5)


def test_gap_percentiles_meet_numpys_within_a_bin():
    values = np.random.default_rng(1).lognormal(17, 1, 5000)
    histogram = GapHistogram()
    for value in values:
        histogram.add(value, 1)
    for percent in (50, 90, 99):
        assert histogram.percentile(percent) == pytest.approx(np.percentile(values, percent), rel=0.02)


def test_gaps_spread_by_a_lognormal_law_keep_their_mean_and_have_its_percentile():
    histogram, drawn = GapHistogram(0.1), 50e6 * np.random.default_rng(1).lognormal(-0.005, 0.1, 200_000)
    histogram.add(50e6, 1000)
    for percent in (1, 50, 99):
        assert histogram.percentile(percent) == pytest.approx(np.percentile(drawn, percent), rel=0.01)


def test_a_standstill_shows_in_the_gap_of_the_next_token():
    recorder = Recorder(2048)
    meter = recorder.meter()
    meter.decode(10e6, 1, 1.0, 1.0, 0.0)
    meter.stand_still(90e6, 1, held=False)
    meter.decode(20e6, 1, 2.0, 1.0, 0.0)
    assert recorder.spent.stalled == 90e6
    assert recorder.gaps.percentile(50) == pytest.approx(10e6, rel=0.01)
    assert recorder.gaps.percentile(99) == pytest.approx(100e6, rel=0.01)


def test_rates_and_latencies_are_those_of_the_requests():
    recorder = Recorder(2048)
    for second in (1, 2):
        recorder.finish(Request(0.0, 4096, 11), 0.0, second * 1e9, second * 1e9 + 5e9, 100.0)
    summary = recorder.summary()
    assert summary.request_throughput == pytest.approx(2 / 7)
    assert summary.ttft_ms.mean == pytest.approx(1500)
    assert summary.tpot_ms.mean == pytest.approx(500)
    assert summary.hit_rate == pytest.approx(1 - 100 / 2048)


def test_a_benchmark_s_file_stands_beside_each_tier(tmp_path):
    bench = tmp_path / "bench.jsonl"
    run = {"input_lens": [16384] * 4, "output_lens": [8] * 4, "ttfts": [0.9] * 4, "itls": [[0.04] * 7] * 4}
    bench.write_text(json.dumps({**run, "max_concurrency": 2, "duration": 3.0}))
    document, shown = serve(tmp_path, f"--observe {bench} --tier dram,cxl --intervals fit")
    assert [tier["tier"] for tier in document["predictions"]] == ["dram", "cxl"]
    assert document["observed"]["completed"] == 4
    assert "observed lies" in shown


def test_one_output_token_has_no_gap_and_no_figure_of_one(tmp_path):
    out, printed = serve(tmp_path, "--tier cxl --context 100 --concurrency 4 --requests 8 --output 1")
    (record,) = out["records"]
    assert [record[f"{which}_{name}_ms"] for which in ("mean", "p99") for name in ("tpot", "itl")] == [None] * 4
    assert record["mean_ttft_ms"] > 0
    assert " - " in printed


def test_each_request_is_a_line_of_csv_whose_means_are_the_records(tmp_path):
    path = tmp_path / "requests.csv"
    found, _ = serve(
        tmp_path, f"--tier dram,cxl --context 16K --concurrency 4 --requests 6 --output 8 --per-request {path}"
    )
    lines = list(csv.DictReader(path.read_text().splitlines()))
    assert len(lines) == 12
    for number, record in enumerate(found["records"]):
        own = [line for line in lines if line["record"] == str(number)]
        assert {(line["tier"], line["input_len"], line["output_len"]) for line in own} == {
            (record["tier"], "16384", "8")
        }
        for figure in ("ttft_ms", "tpot_ms", "e2e_latency_ms"):
            assert sum(float(line[figure]) for line in own) / 6 == pytest.approx(record[f"mean_{figure}"], rel=1e-6)

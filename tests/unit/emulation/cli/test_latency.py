"""`cxlbed latency` as a user calls it."""

import json

import jsonschema
import pytest
import typer
from typer.testing import CliRunner

from emulation.cli.latency import latency
from emulation.errors import InputError
from emulation.schemas import SCHEMAS
from sac_runtime.errors import LabelMixError, StoreNameError

app = typer.Typer()
app.command()(latency)


def run(*arguments):
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def records(*arguments):
    result = run(*arguments, "--json", "-")
    assert result.exit_code == 0
    return json.loads(result.stdout)["records"]


def test_figure_5_has_a_record_for_each_tier_and_number_of_entries():
    found = records()
    assert [(r["tier"], r["entries"]) for r in found] == [
        (tier, n) for tier in ("dram", "cxl", "rdma") for n in (64, 128, 256, 512, 1024, 2048)
    ]
    for record in found:
        assert set(record) >= {"tier", "entries", "us", "ratio_to_dram", "label", "profile"}
        assert record["label"] == "modelled"
        assert record["us_low"] <= record["us"] <= record["us_high"]
    assert {r["ratio_to_dram"] for r in found if r["tier"] == "dram"} == {1.0}


def test_the_same_question_gets_the_same_answer_to_the_byte():
    assert run("--json", "-").stdout == run("--json", "-").stdout


def test_tiers_entries_rows_and_reader_can_be_chosen():
    found = records("--tier", "numa,cxl", "--entries", "7,2048", "--rows", "fp8", "--reader", "cpu")
    assert [(r["tier"], r["entries"], r["profile"]) for r in found] == [
        ("numa", 7, "numa-pond-intel"),
        ("numa", 2048, "numa-pond-intel"),
        ("cxl", 7, "cxl-switched-220"),
        ("cxl", 2048, "cxl-switched-220"),
    ]
    assert all(r["ratio_to_dram"] > 1 for r in found)


def test_profiles_can_be_named_read_by_a_gpu_or_come_from_a_file(tmp_path):
    mine = tmp_path / "mine.yaml"
    listed = json.loads(run("--list", "--json", "-").stdout)["profiles"]
    assert len(listed) >= 20
    from emulation.timing.profile_folders import PROFILE_FOLDER

    mine.write_text((PROFILE_FOLDER / "cxl-direct-140.yaml").read_text().replace("name: cxl-direct-140", "name: mine"))
    found = records("--profile", f"cxl-switched-750@gpu,{mine}", "--entries", "2048")
    assert [r["profile"] for r in found] == ["cxl-switched-750@gpu", "mine"]


def test_figure_3_has_a_record_for_each_context_and_concurrency():
    found = records("--figure", "3", "--tier", "rdma", "--context", "16384,131072", "--concurrency", "1,8")
    assert [(r["tier"], r["context_tokens"], r["concurrency"]) for r in found] == [
        ("rdma", 16384, 1),
        ("rdma", 16384, 8),
        ("rdma", 131072, 1),
        ("rdma", 131072, 8),
    ]
    assert found[3]["mean_s"] == pytest.approx(5.6, rel=0.12)  # SAC Fig 3
    assert {r["label"] for r in found} == {"modelled"}


def test_a_real_store_gives_injected_times_and_the_injector_s_error():
    result = run("--store", "anonymous", "--store-rows", "5000", "--entries", "300", "--repeats", "5", "--json", "-")
    found = json.loads(result.stdout)
    assert {r["label"] for r in found["records"]} == {"injected"}
    rdma = next(r for r in found["records"] if r["tier"] == "rdma")
    assert rdma["us"] >= 0.9 * rdma["modelled_us"]
    assert found["injector"]["num_honoured"] + found["injector"]["num_late"] >= 15


def test_a_shared_file_and_a_table_work_too(tmp_path):
    arguments = ["--store", f"shared:{tmp_path}/pool", "--store-rows", "1000", "--entries", "10", "--repeats", "3"]
    result = run(*arguments, "--rows", "fp8", "--tier", "rdma")
    assert "not honoured" in result.stdout
    assert "injector's own error" in result.stdout
    content = (tmp_path / "pool").read_bytes()
    with pytest.raises(InputError, match="holds something already"):
        run(*arguments)
    assert (tmp_path / "pool").read_bytes() == content


@pytest.mark.parametrize("figure", ["5", "3"])
def test_it_draws(tmp_path, figure):
    run("--figure", figure, "--plot", str(tmp_path / "p.svg"))
    assert "<svg" in (tmp_path / "p.svg").read_text()


@pytest.mark.parametrize("claimed", ["functional", "modelled", "injected", "numa-measured", "hardware"])
def test_the_wall_clock_of_ordinary_memory_is_refused_as_latency(claimed):
    with pytest.raises(LabelMixError, match="functional numbers claim no time"):
        run("--store", "anonymous", "--store-rows", "100", "--bare", claimed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tier", "dram,tape"], "tier='tape' is unknown; take one of dram, numa, cxl, rdma"),
        (["--entries", "64,x"], "entries='64,x' must be whole numbers"),
        (["--entries", "0"], "entries='0' must be at least 1"),
        (["--entries", " ,"], "entries=' ,' must be whole numbers"),
        (["--figure", "4"], "figure=4 must be 5"),
        (["--figure", "3", "--store", "anonymous"], "'anonymous' moves entries"),
        (["--figure", "3", "--concurrency", "0"], "concurrency='0' must be at least 1"),
        (["--bare", "hardware"], "give --store too"),
        (["--store", "tape"], "store='tape' is none of anonymous"),
        (["--store", "anonymous", "--repeats", "0"], "repeats=0 must be at least 1"),
        (["--profile", "nothing"], "name='nothing' is unknown"),
        (["--plot", "x.gif"], r"must end in \.png"),
    ],
)
def test_bad_input_is_named_with_its_rule(arguments, said):
    with pytest.raises((InputError, StoreNameError), match=said) as refusal:
        run(*arguments)
    assert refusal.value.exit_status == 2


def topk_csv(tmp_path):
    """Two steps, two layers, top-k 2 of a context of 100 tokens."""
    path = tmp_path / "mine.csv"
    path.write_text("# context_tokens=100\nstep,layer,rows\n0,0,1 2\n0,1,5 99\n1,0,2 3\n1,1,5 99\n")
    return path


def test_a_trace_is_fetched_without_a_bed(tmp_path):
    document = json.loads(run("--trace", str(topk_csv(tmp_path)), "--hot-buffer", "4", "--json", "-").stdout)
    jsonschema.validate(document, SCHEMAS["latency"]())
    assert {key: document[key] for key in ("requests", "layers", "steps", "top_k", "context_tokens", "hot_buffer")} == {
        "requests": 1, "layers": 2, "steps": 2, "top_k": 2, "context_tokens": [100], "hot_buffer": 4,
    }  # fmt: skip
    assert document["miss_rate"] == 0.25  # of the second step's 2 layers x 2, one
    by_tier = {record["tier"]: record for record in document["records"]}
    assert set(by_tier) == {"dram", "cxl", "rdma"}
    assert {record["rows"] for record in by_tier.values()} == {5}
    assert by_tier["rdma"]["prefix_us"] > by_tier["cxl"]["prefix_us"] > 0
    assert by_tier["cxl"]["ratio_to_dram"] >= by_tier["dram"]["ratio_to_dram"] == 1
    assert document["setting"]["outside_fit"]


def test_a_trace_s_tiers_and_profiles_are_chosen_as_elsewhere_and_a_small_buffer_is_refused(tmp_path):
    path = topk_csv(tmp_path)
    document = json.loads(run("--trace", str(path), "--profile", "cxl-direct-140,cxl-direct-410", "--json", "-").stdout)
    assert [record["tier"] for record in document["records"]] == ["dram", "cxl-direct-140", "cxl-direct-410"]
    with pytest.raises(InputError, match="hot_buffer=1 is below the trace's top_k; give at least 2"):
        run("--trace", str(path), "--hot-buffer", "1")
    with pytest.raises(InputError, match="leave out --trace"):
        run("--trace", str(path), "--store", "anonymous")


def test_times_have_intervals_and_say_what_they_are_of():
    document = json.loads(run("--entries", "64,4096", "--json", "-").stdout)
    jsonschema.validate(document, SCHEMAS["latency"]())
    for record in document["records"]:
        interval = record["interval"]
        assert interval["low"] < interval["value"] == record["us"] < interval["high"]
    setting = document["setting"]
    assert (setting["model"], setting["gpu"], setting["nic_gbit"]) == ("DeepSeek-V3.2", "H20", {"sac-gpu-rdma": 100.0})
    assert setting["outside_fit"] == ["entries 4096 (fitted: 64 to 2048)"]

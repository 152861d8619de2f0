"""The main job as its users run it, and what it says when the pool is spoiled."""

import json

import pytest

from emulation.conformance import run as job
from emulation.conformance.exchange import BitFlip
from emulation.conformance.truth import JobShape
from qemu_configs.bedfile import find
from tests.vm.command import SMALL, emulators_of

SHAPE = JobShape(context_tokens=2048, num_layers=3, num_heads=2, top_k=256, num_steps=2, hot_buffer=300)


def test_run_verifies_both_pool_devices_and_leaves_nothing_behind(cxlbed, state_folder, tmp_path):
    ended = cxlbed("run", *SMALL, "--json", str(tmp_path / "result.json"))
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["right"]
    assert [store["place"]["name"] for store in result["stores"]] == ["r0", "r1"]
    assert {store["place"]["writer"] for store in result["stores"]} == {"a"}
    assert {store["place"]["reader"] for store in result["stores"]} == {"b"}
    assert all(store["label"] == "functional" for store in result["stores"])
    assert all(store["entries_right"] == store["entries"] == 2 * 2 * 256 for store in result["stores"])
    assert emulators_of(state_folder) == []


def test_run_ends_with_1_and_names_layer_and_row_of_a_flipped_byte(cxlbed):
    ended = cxlbed("run", "direct", *SMALL, "--flip", "1")
    assert ended.returncode == 1
    assert "layer 1, row " in ended.stdout
    assert "layer 0" not in ended.stdout


@pytest.mark.cxlbed("shared-pool")
def test_a_bit_that_flips_anywhere_in_a_row_is_noticed_in_its_layer_and_row_alone(bed):
    for flip in (BitFlip(layer=0, byte=0), BitFlip(layer=2, byte=655), BitFlip(layer=1, byte=513)):
        spoiled, clean = job.run(bed, SHAPE, flip, print)
        assert clean.mismatches == []
        named = {sentence.split(":")[0] for sentence in spoiled.mismatches if ", row " in sentence}
        assert {where.split(", ")[1] for where in named} == {f"layer {flip.layer}"}
        assert len({where.split(", ")[2] for where in named}) == 1


@pytest.mark.cxlbed("shared-pool")
def test_a_flip_in_a_row_that_no_step_chooses_changes_nothing(bed):
    first, _ = job.run(bed, SHAPE, None, print)
    never = next(t for t in range(2048) if not any(t in step.tokens(0) for step in job.Context(SHAPE, 0).topk))
    spoiled, _ = job.run(bed, SHAPE, BitFlip(layer=0, token=never), print)
    assert spoiled.mismatches == first.mismatches == []


@pytest.mark.cxlbed("shared-pool")
def test_the_job_runs_on_a_bed_that_is_up_and_leaves_it_up(bed):
    with bed.session("a") as session:
        before = session.run("cat /proc/sys/kernel/random/boot_id").text
    job.run(bed, SHAPE, None, print)
    with bed.session("a") as session:
        assert session.run("cat /proc/sys/kernel/random/boot_id").text == before


def test_nonsense_shapes_are_refused_before_anything_boots(cxlbed, state_folder):
    for arguments, said in (
        (["--top-k", "20000"], "top_k=20000 must be below context_tokens"),
        (["--rows", "int4"], "rows='int4' must be one of fp8, bf16"),
        (["--layers", "0"], "num_layers=0 must be at least 1"),
        (["--flip", "one"], "flip='one' must be LAYER"),
        (["no-such-bed"], "neither a file nor a stock topology"),
    ):
        ended = cxlbed("run", *arguments)
        assert ended.returncode == 2, ended.stderr
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_bed_of_the_users_own_does_not_grow(cxlbed, tmp_path):
    (tmp_path / "mine.yaml").write_text(find("direct").read_text())
    ended = cxlbed("run", str(tmp_path / "mine.yaml"), "--layers", "61", "--context", "64K")
    assert ended.returncode == 2, ended.stderr
    assert "region 'r0' of bed 'direct' holds 1024 MiB, the pool of 61 layers" in ended.stderr


def test_the_devices_of_a_stock_bed_grow_with_the_job(cxlbed, tmp_path):
    shape = [
        "--context",
        "128K",
        "--layers",
        "7",
        "--top-k",
        "256",
        "--hot-buffer",
        "300",
        "--heads",
        "1",
        "--steps",
        "1",
    ]
    ended = cxlbed("run", "direct", *shape, "--json", str(tmp_path / "result.json"))
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "result.json").read_text())["right"]

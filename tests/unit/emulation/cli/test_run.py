"""`cxlbed run` as a user calls it, where nothing boots."""

import pytest
from typer.testing import CliRunner

from emulation.cli.app import app
from emulation.errors import InputError
from sac_runtime.rows.layout import DEEPSEEK_TOP_K, SAC_BUFFER_SLOTS

RUN = "emulation.cli.run"


def job_of(monkeypatch, *options):
    """What the verb asks of the job, on a bed that is up."""
    asked = {}

    def job(bed, shape, flip, say, runtime, contexts):
        asked.update(bed=bed, shape=shape, flip=flip, runtime=runtime, contexts=contexts)
        raise InputError("far enough")

    monkeypatch.setattr(f"{RUN}.beds.find", lambda name: f"bed {name}")
    monkeypatch.setattr(f"{RUN}.job.run", job)
    result = CliRunner().invoke(app, ["run", "--bed", "mine", *options])
    assert str(result.exception) == "far enough"
    return asked


def test_the_runtime_under_test_is_handed_on_by_its_name(monkeypatch):
    assert job_of(monkeypatch, "--runtime", "mine.runtime:open")["runtime"] == "mine.runtime:open"
    assert job_of(monkeypatch)["runtime"] == "sac"


def test_the_job_has_the_model_and_the_hot_buffer_of_sacs_runs_unless_told_otherwise(monkeypatch):
    shape = job_of(monkeypatch)["shape"]
    assert (shape.top_k, shape.hot_buffer) == (DEEPSEEK_TOP_K, SAC_BUFFER_SLOTS)
    assert job_of(monkeypatch, "--top-k", "64")["shape"].top_k == 64


def test_a_flip_is_layer_token_and_byte(monkeypatch):
    flip = job_of(monkeypatch, "--flip", "1:2:3")["flip"]
    assert (flip.layer, flip.token, flip.byte) == (1, 2, 3)


@pytest.mark.parametrize("text", ["x", "1:2:3:4", ""])
def test_a_flip_of_other_words_is_refused(text):
    result = CliRunner().invoke(app, ["run", "--flip", text])
    assert f"flip='{text}' must be LAYER" in str(result.exception)


def test_a_file_in_place_of_the_reports_folder_is_refused_before_anything_boots(tmp_path):
    (tmp_path / "taken").touch()
    result = CliRunner().invoke(app, ["run", "--bed", "mine", "--report", str(tmp_path / "taken")])
    assert isinstance(result.exception, InputError)
    assert f"--report {tmp_path / 'taken'}: folder" in str(result.exception)

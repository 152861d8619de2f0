"""Every document that a verb writes is what its schema says, and another is refused. `run` is in conformance/test_result.py."""

import json
from dataclasses import asdict
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from emulation.cli.app import app
from emulation.numa.compare import Beside, TopUp
from emulation.numa.measure import Figures, LoadPoint
from emulation.numa.records import SurveyDocument
from emulation.numa.survey import Survey
from emulation.schemas import SCHEMAS
from guest.agent.numa_nodes import Access, Node, Pair
from guest.agent.numa_placement import Proof

EXCERPT = Path(__file__).parent / "serving" / "mooncake_excerpt.jsonl"
FEW = "--context 16K --concurrency 2 --requests 4 --output 4"
WRITTEN = {
    "a sweep": f"serve --tier hbm,dram,cxl,rdma {FEW}",
    "what does not fit": "serve --tier hbm --context 1M --concurrency 1 --requests 2 --output 4",
    "requests at a rate": "serve --tier cxl --context 16K --requests 4 --output 4 --rate 1",
    "a trace": f"serve --tier cxl --trace {EXCERPT} --requests 4",
    "a comparison": f"serve --compare {FEW}",
    "entries": "latency --entries 64",
    "prefixes": "latency --figure 3 --concurrency 1",
    "a stalled store": "latency --store anonymous --store-rows 500 --entries 10 --repeats 2",
    "profiles": "latency --list",
}


def written_by(command):
    result = CliRunner().invoke(app, [*command.split(), "--json", "-"], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_verb_writes_is_what_its_schema_says(name):
    jsonschema.validate(written_by(WRITTEN[name]), SCHEMAS[WRITTEN[name].split()[0]]())


def survey_document():
    nodes = [
        Node(n, (n,), 1 << 30, 1 << 29, {0: 10, 1: 20}, access)
        for n, access in enumerate((Access(1, 2, 3, None), None))
    ]
    proof = Proof("bind:1", {1: 16}, {1: 16}, (0,))
    figures = Figures(180.0, 12.0, 9.0, 30.0, 20.0, (LoadPoint(23.6, 200.0),), 1.0)
    beside = [Beside("latency", "ns", 180.0, 400, "a paper")]
    survey = Survey(Pair(*nodes), proof, figures, figures, beside, TopUp(400.0, None, 0, "no need"))
    return json.loads(json.dumps(asdict(SurveyDocument.of(survey, nodes, "cxl-switched-400", ""))))


def test_a_survey_of_nodes_is_what_its_schema_says():
    jsonschema.validate(survey_document(), SCHEMAS["numa"]())


def test_a_guests_placement_is_what_its_schema_says():
    survey = survey_document()
    report = {name: survey[name] for name in ("nodes", "local", "remote", "distance", "placement")}
    jsonschema.validate(report | {"problems": [], "label": "functional"}, SCHEMAS["numa"]())


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("note"),
        lambda record: record.update(tokens=1),
        lambda record: record.update(output_throughput="fast"),
        lambda record: record.update(label="guessed"),
    ],
    ids=["a key is missing", "a key is new", "a number is text", "a label is none"],
)
def test_a_record_that_is_not_what_its_schema_says_is_refused(change):
    document = written_by(WRITTEN["what does not fit"])
    change(document["records"][0])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMAS["serve"]())


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_one(name):
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name]())

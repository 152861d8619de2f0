"""JSON Schemas by name: of the documents that verbs write with --json, and of the files that people write.

Knows which document is whose; their fields are told by the dataclasses. Objects of written documents admit no other keys.
pydantic makes the schemas and is imported here with this module, which `cxlbed schema` alone loads."""

from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter

from emulation.conformance.result import RunResult
from emulation.faults.soak import SoakReport
from emulation.latency.records import (
    BareDocument,
    EntryDocument,
    InjectedDocument,
    PrefixDocument,
    ProfilesDocument,
    TraceDocument,
)
from emulation.numa.records import PlacementDocument, SurveyDocument
from emulation.serving import hardware_files
from emulation.serving.beside import ObservedDocument
from emulation.serving.records import ComparisonDocument, SweepDocument
from emulation.timing import profile_file
from qemu_configs import bedfile

Schema = dict[str, Any]


def run_schema() -> Schema:
    """Of what `cxlbed run` writes."""
    return _written(RunResult)


def latency_schema() -> Schema:
    """Of what `cxlbed latency` writes: one of six documents, by its options."""
    return _written(EntryDocument | PrefixDocument | TraceDocument | InjectedDocument | BareDocument | ProfilesDocument)


def serving_schema() -> Schema:
    """Of what `cxlbed serve` writes: a sweep's records, comparisons, or predictions beside an observation."""
    return _written(SweepDocument | ComparisonDocument | ObservedDocument)


def numa_schema() -> Schema:
    """Of what `cxlbed numa` writes: a survey, or a guest's placement."""
    return _written(SurveyDocument | PlacementDocument)


def soak_schema() -> Schema:
    """Of what `cxlbed soak` writes."""
    return _written(SoakReport)


SCHEMAS: dict[str, Callable[[], Schema]] = {
    "run": run_schema,
    "latency": latency_schema,
    "serve": serving_schema,
    "numa": numa_schema,
    "soak": soak_schema,
    "bed": bedfile.json_schema,
    "profile": profile_file.json_schema,
    "model": hardware_files.model_schema,
    "gpu": hardware_files.gpu_schema,
    "rdma": hardware_files.rdma_schema,
}


def _written(document: Any) -> Schema:
    """The schema of a document as it is written: all keys are there, and no others."""
    schema = TypeAdapter(document).json_schema(mode="serialization")
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part:
            part["required"] = list(part["properties"])
            part["additionalProperties"] = False
    return schema

"""`cxlbed schema`: JSON Schemas by name."""

from pathlib import Path
from typing import Annotated

import typer

from emulation.cli.output import write_json
from emulation.errors import InputError
from emulation.schemas import SCHEMAS


def schema(
    of: Annotated[
        str, typer.Argument(metavar="[OF]", help="bed, profile, model, gpu, rdma, run, latency, serve, numa or soak.")
    ] = "bed",
) -> None:
    """Print a JSON Schema: of bed files, profiles and hardware, for editors, or of what a verb writes with --json."""
    if of not in SCHEMAS:
        raise InputError(f"schema '{of}': is unknown; take one of {', '.join(SCHEMAS)}")
    write_json(Path("-"), SCHEMAS[of]())

"""The verb `run`: the main job on a bed of its own, or on one that is up."""

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emulation.cli.beds import AcceleratorOption, MemoryOption, UriOption
from emulation.cli.output import JsonOption, write_json
from emulation.cli.progress import progress
from emulation.errors import InputError

MISMATCHES_SHOWN = 10

if TYPE_CHECKING:
    from emulation.machines.bed import Bed
    from emulation.mainjob.share import Flip, Verdict

FileOrName = Annotated[str, typer.Argument(metavar="[FILE]", help="A bed file, or the name of a stock topology.")]


def run(
    file: FileOrName = "shared-pool",
    context: Annotated[int, typer.Option(help="Tokens of each context.")] = 16384,
    layers: Annotated[int, typer.Option(help="Layers; DeepSeek-V3.2 has 61.")] = 4,
    heads: Annotated[int, typer.Option(help="Attention heads; DeepSeek-V3.2 has 128.")] = 8,
    top_k: Annotated[int, typer.Option(help="Entries that attention takes part in.")] = 2048,
    rows: Annotated[str, typer.Option(help="Row format: fp8 (656 B, padded to 704) or bf16 (1152 B).")] = "fp8",
    steps: Annotated[int, typer.Option(help="Tokens to decode.")] = 3,
    hot_buffer: Annotated[int, typer.Option(help="Slots of each layer's hot buffer.")] = 6144,
    seed: Annotated[int, typer.Option(help="Seed of rows, scores and queries.")] = 0,
    trace: Annotated[Path | None, typer.Option(help="Replay the choices of this recorded trace.")] = None,
    flip: Annotated[
        str | None, typer.Option(help="Flip a bit of LAYER[:TOKEN[:BYTE]]; the run must then fail.")
    ] = None,
    bed_name: Annotated[str | None, typer.Option("--bed", help="Use this bed, which is up, and leave it up.")] = None,
    uri: UriOption = "embedded",
    accelerator: AcceleratorOption = "auto",
    memory_folder: MemoryOption = Path("/dev/shm"),
    json: JsonOption = None,
) -> None:
    """Boot a bed, write KV through one host, fetch the top-k through another, verify every byte. Ends with 1 on a mismatch."""
    from emulation.machines import bed as beds
    from emulation.machines.this_machine import this_machine
    from emulation.mainjob import job
    from emulation.mainjob.context import JobShape
    from qemu_configs import bedfile

    shape = JobShape(context, layers, heads, top_k, rows, steps, hot_buffer, seed, trace)
    spoiled = _flip(flip)
    with progress() as show:
        if bed_name is not None:
            bed = beds.find(bed_name)
            verdicts = job.run(bed, shape, spoiled, show)
        else:
            wanted = bedfile.load(file, this_machine())
            name = f"run-{wanted.name[:20]}-{os.getpid()}-{secrets.token_hex(2)}"
            with beds.booted(wanted, name, beds.Options(uri, accelerator, memory_folder), show) as bed:
                verdicts = job.run(bed, shape, spoiled, show)
    write_json(json, _result(bed, verdicts))
    if str(json) != "-":
        _show(bed, verdicts)
    if any(verdict.mismatches for verdict in verdicts):
        raise typer.Exit(1)


def _flip(text: str | None) -> "Flip | None":
    from emulation.mainjob.share import Flip

    if text is None:
        return None
    try:
        layer, *rest = (int(part) for part in text.split(":"))
        return Flip(layer, *rest)
    except (ValueError, TypeError):
        raise InputError(f"run: flip='{text}' must be LAYER, LAYER:TOKEN or LAYER:TOKEN:BYTE, whole numbers") from None


def _result(bed: "Bed", verdicts: "list[Verdict]") -> dict[str, object]:
    return {
        "topology": bed.topology.name,
        "accelerator": bed.record.accelerator,
        "ready_s": bed.record.ready_s,
        "right": not any(verdict.mismatches for verdict in verdicts),
        "stores": [verdict.record() for verdict in verdicts],
    }


def _show(bed: "Bed", verdicts: "list[Verdict]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("store", "written by", "fetched by", "rows", "bytes", "lines", "verified", "attention error", "label")
    for verdict in verdicts:
        place = verdict.place
        table.add_row(
            place.name,
            f"{place.writer} {place.writer_store}",
            f"{place.reader} {place.reader_store}",
            f"{verdict.fetched_rows:,}",
            f"{verdict.fetched_bytes:,}",
            f"{verdict.fetched_lines:,}",
            f"{verdict.entries_right:,} of {verdict.entries:,} entries",
            f"{verdict.attention_error:.1e}",
            str(verdict.label),
        )
    console = Console()
    console.print(table)
    for verdict in verdicts:
        for mismatch in verdict.mismatches[:MISMATCHES_SHOWN]:
            console.print(f"[red]WRONG[/red] {verdict.place.name}: {mismatch}", highlight=False)
        if len(verdict.mismatches) > MISMATCHES_SHOWN:
            console.print(f"      {verdict.place.name}: and {len(verdict.mismatches) - MISMATCHES_SHOWN} more")

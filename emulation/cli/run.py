"""The verb `run`: the main job on a bed of its own, or on one that is up."""

import os
import secrets
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from emulation.calibration.fetch import entry_residuals
from emulation.cli.options import AcceleratorOption, EmulatorOption, MemoryOption, UriOption, whole_numbers
from emulation.cli.output import JsonOption, folder_option, write_json
from emulation.cli.progress import progress
from emulation.cli.terminal import show
from emulation.conformance import relative
from emulation.conformance import run as job
from emulation.conformance.exchange import BitFlip
from emulation.conformance.result import Result, RunResult
from emulation.conformance.truth import JobShape
from emulation.errors import InputError
from emulation.latency.replayed import TierReplay
from emulation.latency.setting import FetchSetting
from emulation.machines import bed as beds
from emulation.machines.bed import Bed
from emulation.machines.launch import Options
from emulation.machines.this_machine import this_machine
from emulation.report.run import bytes_report, relative_latency_table, write_report
from guest.agent.runtime import REFERENCE
from qemu_configs import bedfile
from sac_runtime.rows.layout import DEEPSEEK_LAYERS, DEEPSEEK_TOP_K, SAC_BUFFER_SLOTS

FileOrName = Annotated[str, typer.Argument(metavar="[FILE]", help="A bed file, or the name of a stock topology.")]

ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--report", callback=folder_option("--report"), help="Write a page with the relative latency to this folder."
    ),
]


def run(
    file: FileOrName = "shared-pool",
    context: Annotated[str, typer.Option(metavar="TOKENS", help="Tokens of each context; 128K is 131072.")] = "16K",
    contexts: Annotated[
        int | None, typer.Option(min=1, help="Contexts; without it, one per memory of the bed.")
    ] = None,
    layers: Annotated[int, typer.Option(help="Layers; DeepSeek-V3.2 has as many as this.")] = DEEPSEEK_LAYERS,
    heads: Annotated[int, typer.Option(help="Attention heads; DeepSeek-V3.2 has 128.")] = 8,
    top_k: Annotated[int, typer.Option(help="Entries that attention takes part in.")] = DEEPSEEK_TOP_K,
    rows: Annotated[str, typer.Option(help="Row format: fp8 (656 B, padded to 704) or bf16 (1152 B).")] = "fp8",
    steps: Annotated[int, typer.Option(help="Tokens to decode.")] = 3,
    hot_buffer: Annotated[int, typer.Option(help="Slots of each layer's hot buffer.")] = SAC_BUFFER_SLOTS,
    seed: Annotated[int, typer.Option(help="Seed of rows, scores and queries.")] = 0,
    trace: Annotated[Path | None, typer.Option(help="Replay the choices of this recorded trace.")] = None,
    flip: Annotated[
        str | None, typer.Option(help="Flip a bit of LAYER[:TOKEN[:BYTE]]; the run must then fail.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="The runtime under test, as the hosts know it.")] = REFERENCE,
    bed_name: Annotated[str | None, typer.Option("--bed", help="Use this bed, which is up, and leave it up.")] = None,
    uri: UriOption = "embedded",
    accelerator: AcceleratorOption = "auto",
    memory_folder: MemoryOption = Path("/dev/shm"),
    emulator: EmulatorOption = None,
    report: ReportOption = None,
    json: JsonOption = None,
) -> None:
    """Boot a bed, write KV through one host, fetch the top-k through another, verify every byte. Ends with 1 on a mismatch."""
    shape = JobShape(_tokens(context), layers, heads, top_k, rows, steps, hot_buffer, seed, trace)
    bit_flip = _flip(flip)
    if not runtime:
        raise InputError(
            "run: runtime='' names no runtime (give sac, a module as in package.module:name, or an entry point)"
        )
    job.require_usable(shape, bit_flip)  # before anything boots
    with ExitStack() as ending:
        say = ending.enter_context(progress())
        if bed_name is not None:
            bed = beds.find(bed_name)
        else:
            topology = bedfile.load(file, this_machine())
            if file in bedfile.stock_names():
                topology = job.grown_for(topology, shape)
            job.require_fits(topology, shape)
            job.require_room(topology, shape, contexts, memory_folder)
            name = f"run-{topology.name[:16]}-{os.getpid()}-{secrets.token_hex(2)}"
            options = Options(uri, accelerator, memory_folder, emulator)
            bed = ending.enter_context(beds.booted(topology, name, options, say))
        results = job.run(bed, shape, bit_flip, say, runtime, contexts)
        ending.callback(show, json, *bytes_report(results))  # whatever comes after: the verdict has been reached
    paths = relative.replay_paths(bed, results)
    replays = relative.replay_fetches(paths, shape, results, entry_residuals())
    setting = relative.replay_setting(paths, shape)
    show(json, relative_latency_table(replays, setting))
    write_json(json, asdict(_result(bed, results, setting, replays)))
    if report is not None:
        typer.echo(f"report: {write_report(report, bed, results, replays, setting)}", err=True)
    if any(result.mismatches for result in results):
        raise typer.Exit(1)


def _tokens(text: str) -> int:
    (tokens,) = whole_numbers("run", "context", text) if "," not in text else (0,)
    return tokens


def _flip(text: str | None) -> BitFlip | None:
    if text is None:
        return None
    try:
        layer, *rest = (int(part) for part in text.split(":"))
        return BitFlip(layer, *rest)
    except (ValueError, TypeError):
        raise InputError(f"run: flip='{text}' must be LAYER, LAYER:TOKEN or LAYER:TOKEN:BYTE, whole numbers") from None


def _result(bed: Bed, results: list[Result], setting: FetchSetting, replays: list[TierReplay]) -> RunResult:
    return RunResult(
        topology=bed.topology.name,
        accelerator=bed.record.accelerator,
        ready_s=bed.record.ready_s,
        right=not any(result.mismatches for result in results),
        stores=[result.record() for result in results],
        setting=setting,
        relative_latency=replays,
    )

"""The options of `cxlbed serve`. Knows words and their help; runs nothing."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from emulation.cli.output import file_option, folder_option


class Intervals(StrEnum):
    """What intervals cover."""

    AUTO = "auto"  # the fit's errors; up to 2048 requests, profiles that disagree too
    ALL = "all"  # both
    FIT = "fit"  # the fit's errors


class HbmPrefix(StrEnum):
    """Whether HBM only finds the prefixes of round 2."""

    KEPT = "kept"  # as if nothing else needed the room: its kindest case
    FIT = "fit"  # if all of them fit into HBM; else they are computed anew


LIST = "comma-separated; lists are swept"
LISTED = ("context", "concurrency", "output", "devices", "servers", "gpus", "hot-buffer", "round")  # options of numbers
TierOption = Annotated[str, typer.Option("--tier", help=f"Tiers ({LIST}): hbm, dram, cxl, rdma.")]
ContextOption = Annotated[str, typer.Option("--context", help=f"Prompt lengths in tokens ({LIST}); 128K is 131072.")]
ConcurrencyOption = Annotated[str, typer.Option("--concurrency", help=f"Requests in flight in all ({LIST}).")]
OutputOption = Annotated[
    str | None,
    typer.Option("--output", help=f"Output lengths in tokens ({LIST}); default 1K, of a trace those that it records."),
]
RequestsOption = Annotated[
    str | None,
    typer.Option("--requests", help="How many requests, 1M is 1048576; default 512, of a trace all that it holds."),
]
BlockOption = Annotated[
    int | None,
    typer.Option("--block-tokens", help="With --trace: tokens per hash id, in place of the format's."),
]
PrefixesOption = Annotated[str, typer.Option("--prefixes", help="Different prefixes to keep in round 2.")]
DevicesOption = Annotated[str, typer.Option("--devices", help=f"Devices of the pool ({LIST}).")]
ServersOption = Annotated[str, typer.Option("--servers", help=f"Servers on one pool ({LIST}).")]
GpusOption = Annotated[str, typer.Option("--gpus", help=f"GPUs per server ({LIST}).")]
BufferOption = Annotated[str, typer.Option("--hot-buffer", help=f"Slots of a request's hot buffer per layer ({LIST}).")]
ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", help=f"Timing profiles ({LIST}): names or .yaml files, each for the tier it is of."),
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="Replay this trace (formats: docs/traces.md): its lengths, arrivals and reuse, in place of --context and "
        "--round. --output is for requests without a recorded one, --concurrency for a trace without times.",
    ),
]
RoundOption = Annotated[str, typer.Option("--round", help=f"1 populates, 2 hits for every prefix ({LIST}).")]
SeedOption = Annotated[int, typer.Option("--seed", help="Of arrivals at a rate.")]
RateOption = Annotated[
    float | None,
    typer.Option(
        "--rate",
        help="Open loop: requests per second. With --trace: how many times faster than recorded; requests per second if it "
        "has no times.",
    ),
]
BurstOption = Annotated[float, typer.Option("--burstiness", help="With --rate: 1 is Poisson, below 1 comes in bursts.")]
OverlapOption = Annotated[
    float | None,
    typer.Option("--overlap", help="Share of the top-k kept from step to step; default: as the context has."),
]
TopkTraceOption = Annotated[
    Path | None,
    typer.Option("--topk-trace", help="Misses from this recorded top-k trace through the runtime's buffer."),
]
ModelOption = Annotated[
    str, typer.Option("--model", help="Model: a shipped name (deepseek-v3.2, glm-5, kimi-like) or a .yaml file.")
]
GpuOption = Annotated[str, typer.Option("--gpu", help="GPU: a shipped name (h20, h100, h200, b200) or a .yaml file.")]
RdmaOption = Annotated[
    str,
    typer.Option(
        "--rdma", help="How KV comes by RDMA: sac, sac-rows, beluga-rows, mooncake, mooncake-4x200 or a .yaml file."
    ),
]
NicsOption = Annotated[int | None, typer.Option("--nics", help="Network cards per server, in place of --rdma's.")]
NicGbitOption = Annotated[float | None, typer.Option("--nic-gbit", help="Wire of each network card, Gb/s.")]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        help=f"How prefill and decode share a server ({LIST}): prefill-first, chunked (a chunk of prefill per step), "
        "separated (some GPUs prefill, the others decode).",
    ),
]
PlacementOption = Annotated[
    str,
    typer.Option("--placement", help=f"Which server takes a request ({LIST}): least-requests, round-robin, prefix."),
]
ChunkOption = Annotated[str, typer.Option("--chunk-tokens", help="Tokens of prefill per GPU and step, if chunked.")]
PrefillGpusOption = Annotated[str, typer.Option("--prefill-gpus", help="GPUs per server that prefill, if separated.")]
StripedOption = Annotated[bool, typer.Option("--striped", help="Spread each request over all devices.")]
HbmOption = Annotated[float | None, typer.Option("--hbm-kv", help="HBM for KV per GPU, in GB.")]
SloTtftOption = Annotated[
    float | None, typer.Option("--slo-ttft", help="Goodput: ms that a request may take to its first token.")
]
SloTbtOption = Annotated[
    float | None, typer.Option("--slo-tbt", help="Goodput: ms that its later tokens may take each, on average.")
]
CoherenceOption = Annotated[
    str,
    typer.Option(
        "--coherence",
        help="How hosts see one another's KV in the pool: bypass (GPUs load and store past the CPU's caches), or moved by the CPU "
        "with non_temporal stores, clflush or uncached.",
    ),
]
PerRequestOption = Annotated[
    Path | None,
    typer.Option(
        "--per-request",
        callback=file_option("--per-request"),
        help="Write one line of CSV per request to this file.",
    ),
]
PlotsOption = Annotated[
    Path | None, typer.Option("--plots", callback=folder_option("--plots"), help="Draw pictures into this folder.")
]
IntervalsOption = Annotated[
    Intervals,
    typer.Option(
        "--intervals", help="What intervals cover: all runs disagreeing profiles too, auto only up to 2048 requests."
    ),
]
HbmPrefixOption = Annotated[
    HbmPrefix,
    typer.Option(
        "--hbm-prefix", help="Tier hbm, round 2: prefixes are in HBM for nothing, or only if all of them fit."
    ),
]
ObserveOption = Annotated[
    Path | None,
    typer.Option(
        "--observe",
        help="Set predictions beside what a real engine's benchmark wrote: sglang.bench_serving --output-details, vllm bench serve "
        "--save-detailed, or what either printed.",
    ),
]
CompareOption = Annotated[
    bool,
    typer.Option(
        "--compare", help="All tiers, closed loop: who wins by how much, from where on, and where that flips."
    ),
]

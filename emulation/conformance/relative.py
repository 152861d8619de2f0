"""What the main job's fetches would take, relatively, on each tier: the recorded misses replayed on virtual time.

Knows verdicts, beds and the replay. The times are modelled: none of them comes from the guests, which only say what was fetched.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emulation.conformance.result import Result
from emulation.conformance.truth import JobShape
from emulation.latency.replayed import Recording, TierReplay, replay, tier_paths
from emulation.machines.bed import Bed
from emulation.report.page import PageTable, Section, write_page
from emulation.report.run import relative_latency_section
from emulation.timing.path import bed_path

DEFAULT_CXL_PROFILE = "cxl-switched-220"  # of devices that the bed file gives no profile
READ_BY = "gpu"  # SAC's reader, in every tier


def replay_fetches(bed: Bed, shape: JobShape, verdicts: Sequence[Result]) -> list[TierReplay]:
    """The misses of all contexts, one after another, on every tier and on the bed's own devices as its file draws them."""
    misses = np.concatenate([verdict.misses for verdict in verdicts], axis=1).astype(np.int64)
    tiers = tier_paths(read_by=READ_BY)
    place = verdicts[0].place
    if place.devices:
        path = bed_path(bed.topology, place.reader, place.devices, "reader0", DEFAULT_CXL_PROFILE, READ_BY)
        tiers[f"bed:{'+'.join(place.devices)}"] = [path]
    return replay(Recording(misses, shape.context_tokens, shape.top_k, shape.layout), tiers)


def write_report(folder: Path, bed: Bed, verdicts: Sequence[Result], replays: Sequence[TierReplay]) -> Path:
    """Write `run.html`, the verdicts and the relative latency with its picture, to `folder`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    hosts = ", ".join(f"{host.name} ({', '.join(host.stores.values())})" for host in bed.record.hosts)
    text = f"Bed {bed.topology.name}: {hosts}; accelerator {bed.record.accelerator}. {bed.topology.description}"
    bytes_section = Section("Bytes", [text], [PageTable(Result.COLUMNS, [verdict.cells() for verdict in verdicts])])
    time_section = relative_latency_section(replays, folder / "relative-latency.png")
    page = folder / "run.html"
    write_page(page, "cxlbed run", [bytes_section, time_section])
    return page

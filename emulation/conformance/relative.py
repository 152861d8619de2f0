"""What a job's fetches would take, relatively, on each tier: the recorded misses replayed on virtual time.

Knows results, beds and the replay. The times are modelled: none of them comes from the guests, which only say what was fetched.
"""

from collections.abc import Sequence

import numpy as np

from emulation.conformance.result import Result
from emulation.conformance.truth import JobShape
from emulation.latency.replayed import Recording, TierReplay, replay, tier_paths
from emulation.machines.bed import Bed
from emulation.timing.path import bed_path

READ_BY = "gpu"  # SAC's reader, in every tier


def replay_fetches(bed: Bed, shape: JobShape, results: Sequence[Result]) -> list[TierReplay]:
    """The misses of all contexts, one after another, on every tier and on the bed's own devices as its file draws them."""
    misses = np.concatenate([result.misses for result in results], axis=1).astype(np.int64)
    tiers = tier_paths(read_by=READ_BY)
    place = results[0].place
    if place.devices:
        path = bed_path(bed.topology, place.reader, place.devices, "reader0", READ_BY)
        tiers[f"bed:{'+'.join(place.devices)}"] = [path]
    return replay(Recording(misses, shape.context_tokens, shape.top_k, shape.layout), tiers)

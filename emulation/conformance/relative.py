"""What a job's fetches would take, relatively, on each tier: the recorded misses replayed on virtual time.

Knows results, beds and the replay. The times are modelled: none of them comes from the guests, which only say what was fetched.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from emulation.conformance.result import Result
from emulation.conformance.truth import JobShape
from emulation.latency.modelled import NO_RESIDUALS
from emulation.latency.replayed import Recording, TierReplay, replay, tier_paths
from emulation.latency.setting import FetchSetting, setting_of
from emulation.machines.bed import Bed
from emulation.timing.interval import Residual
from emulation.timing.path import LinkPath, bed_path

READ_BY = "gpu"  # SAC's reader, in every tier


def replay_paths(bed: Bed, results: Sequence[Result]) -> dict[str, list[LinkPath]]:
    """The default path of every tier, and that to the bed's own devices as its file draws them."""
    tiers = tier_paths(read_by=READ_BY)
    place = results[0].place
    if place.devices:
        path = bed_path(bed.topology, place.reader, place.devices, "reader0", READ_BY)
        tiers[f"bed:{'+'.join(place.devices)}"] = [path]
    return tiers


def replay_fetches(
    paths: dict[str, list[LinkPath]],
    shape: JobShape,
    results: Sequence[Result],
    residuals: Mapping[str, Residual] = NO_RESIDUALS,
) -> list[TierReplay]:
    """The misses of all contexts, one after another, over each of `paths`. Where all contexts replay one trace, it counts once.
    residuals: the fit's, by profile."""
    counted = results[:1] if shape.trace else results
    misses = np.concatenate([result.misses for result in counted], axis=1).astype(np.int64)
    return replay(Recording(misses, shape.context_tokens, shape.top_k, shape.layout), paths, residuals)


def replay_setting(paths: dict[str, list[LinkPath]], shape: JobShape) -> FetchSetting:
    """What the replayed times are of."""
    profiles = [of_tier[0].profile for of_tier in paths.values()]
    return setting_of(profiles, "one reader alone, layer after layer", contexts=(shape.context_tokens,))

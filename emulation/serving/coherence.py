"""What it takes that hosts see one another's KV in a pool that nothing keeps coherent: publishing what was written, and reading
fresh what others wrote. Knows profiles' times and what is written and read; no requests, no time of day.

Who moves the KV decides. With `bypass` GPUs load and store it past the CPU's caches (DDIO off [SAC]): nobody holds a stale line of
it, and the CPU publishes and reads fresh only the directory, a line per block, by non-temporal stores and clflush. With the other
ways the CPU moves what is written and the indexer keys that are read, by what it does for coherence. Misses of the hot buffer are
a GPU's loads in any case. Times are those that the profile has (published for a CPU's 16 KiB), one core per GPU (assumed)."""

from dataclasses import dataclass

from emulation.timing.profile import Profile
from sac_runtime.rows.layout import INDEX_PAGE_TOKENS, LINE_BYTES

WAYS = ("bypass", "non_temporal", "clflush", "uncached")
_FRESH_BY = {"bypass": "clflush", "non_temporal": "clflush", "clflush": "clflush", "uncached": "uncached"}
_PUBLISH_BY = {"bypass": "non_temporal", "non_temporal": "non_temporal", "clflush": "clflush", "uncached": "uncached"}


@dataclass(frozen=True)
class CoherenceCosts:
    """Times per token of KV, ns."""

    publish_token_ns: float = 0.0
    fresh_token_ns: float = 0.0


def coherence_costs(profile: Profile | None, way: str, written_bytes: int, read_bytes: int) -> CoherenceCosts:
    """The costs of a pool that is seen through `profile`, by `way` of WAYS. written_bytes: of a token, KV and indexer keys;
    read_bytes: of a cached token, on its way to HBM. None, or a profile without such times: nothing is charged."""
    if profile is None or profile.coherence is None:
        return CoherenceCosts()
    figures, line_bytes = profile.coherence, LINE_BYTES / INDEX_PAGE_TOKENS  # of the directory, per token
    written, read = (
        (line_bytes, line_bytes) if way == "bypass" else (written_bytes + line_bytes, read_bytes + line_bytes)
    )
    return CoherenceCosts(
        publish_token_ns=figures.publish_ns[_PUBLISH_BY[way]] * written / figures.num_bytes,
        fresh_token_ns=figures.fresh_read_ns[_FRESH_BY[way]] * read / figures.num_bytes,
    )

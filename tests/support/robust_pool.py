"""A pool's life under a monitor of robustness: which of its reads rely on coherence."""

from emulation.stores.robustness import RobustnessMonitor
from sac_runtime.rows.layout import PAGE_BYTES, KvLayout
from tests.support.pool import Fleet, chain, contents, geometry_of, put, read


def pools_meet():
    """Two hosts of a pool publish, read, retire, reuse and read again; returns what the monitor reported, by reason and part."""
    geometry = geometry_of(KvLayout.bf16(latent=48, rope=16), num_layers=2, block_tokens=1, blocks_per_host=3)
    monitors = []

    def wrap(memory):
        if not monitors:
            monitors.append(RobustnessMonitor(memory, part_of))
        return monitors[0].host("ab"[len(monitors[0].names)])

    def part_of(offset):
        if offset >= geometry.metadata_bytes:
            return "rows"
        return ("superblock", "state", "journal")[min(offset // PAGE_BYTES, 2)]

    fleet = Fleet(geometry, wrap=wrap)
    a, b = fleet.pools.values()
    for request in range(1, 12):
        hashes = chain(request, 2, geometry)
        blocks = put(a, hashes)
        with b.lease() as lease:
            found = lease.prefix(hashes)
            assert (read(b, found) == contents(hashes, geometry)).all()
        a.retire(blocks)
        put(b, chain(100 + request, 1, geometry))
        b.retire_coldest(1)
    return {(report.reason, report.part) for report in monitors[0].reports}

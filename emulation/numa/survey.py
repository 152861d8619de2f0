"""The remote-NUMA host, all of it: bind, prove, measure, set beside a profile, top up; in a guest the placement alone.

Prints nothing. Knows a Session, no bed and no libvirt.
"""

import json
from dataclasses import dataclass
from typing import Any

from emulation.numa.compare import Beside, Record, TopUp, beside_profile, records, top_up
from emulation.numa.measure import Effort, Figures, measure, refuse_emulated_cpu
from emulation.say import Say
from emulation.timing.profile import Profile
from guest.agent.numa_nodes import Pair
from guest.agent.numa_placement import Proof, prove, require_placed, store_on, threads_on
from guest.session import Session
from sac_runtime.rows.layout import PAGE_BYTES


@dataclass(frozen=True)
class Survey:
    """The nodes, the proof and the figures of a survey. Figures of both nodes are read by the CPUs of the local one."""

    pair: Pair
    proof: Proof  # of the pool on the remote node
    local: Figures
    remote: Figures
    beside: list[Beside]
    top_up: TopUp

    @property
    def records(self) -> list[Record]:
        return [*records(self.pair.local.number, self.local), *records(self.pair.remote.number, self.remote)]


def survey(pair: Pair, size_bytes: int, profile: Profile, effort: Effort, progress: Say) -> Survey:
    """Do it all. Raises MachineError on an emulated CPU, PlacementError where pages or threads are misplaced."""
    refuse_emulated_cpu()
    with threads_on(pair.local) as cpus:
        progress(f"node {pair.local.number}: measure")
        with store_on(pair.local, size_bytes) as near:
            local_figures = measure(near, cpus, effort)
        progress(f"node {pair.remote.number}: bind {size_bytes} bytes, prove, measure")
        with store_on(pair.remote, size_bytes) as store:
            proof = prove(store)
            require_placed(proof, pair, store.size_bytes // PAGE_BYTES)
            remote_figures = measure(store, cpus, effort)
            topped_up = top_up(store, remote_figures.latency_ns, profile, effort)
    return Survey(pair, proof, local_figures, remote_figures, beside_profile(remote_figures, profile), topped_up)


def placement_in_guest(session: Session, size_bytes: int) -> dict[str, Any]:
    """What `guest.agent.numa_report` reports in the guest. Raises CommandError, with its stderr, where pages or threads are
    misplaced."""
    report: dict[str, Any] = json.loads(session.python("guest.agent.numa_report", [str(size_bytes)]).stdout)
    return report

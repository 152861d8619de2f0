"""The placement half of a survey of NUMA nodes as a command, for where the machine in question is a guest.

    python -m guest.agent.numa_report SIZE_BYTES

Prints JSON: the nodes, the pair chosen, the proof and what speaks against it. Claims no time: in a guest there is none to
be had.
"""

import json
import sys
from dataclasses import asdict
from typing import Any

from guest.agent.numa_nodes import choose_pair, find_nodes
from guest.agent.numa_placement import prove, store_on, threads_on
from sac_runtime.errors import SacError
from sac_runtime.label import Label
from sac_runtime.rows.layout import PAGE_BYTES


def report_placement(size_bytes: int, local: int | None = None, remote: int | None = None) -> dict[str, Any]:
    """Bind a pool of `size_bytes` and this thread, and tell where both are. Raises HostError on one node."""
    nodes = find_nodes()
    pair = choose_pair(nodes, local, remote)
    with threads_on(pair.local), store_on(pair.remote, size_bytes) as store:
        proof = prove(store)
        problems = proof.problems(pair, store.size_bytes // PAGE_BYTES)
    return {
        "nodes": [asdict(node) for node in nodes],
        "local": pair.local.number,
        "remote": pair.remote.number,
        "distance": pair.distance,
        "placement": asdict(proof),
        "problems": problems,
        "label": Label.FUNCTIONAL,
    }


def main() -> int:
    try:
        report = report_placement(int(sys.argv[1]))
    except SacError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    sys.stdout.write(json.dumps(report) + "\n")
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""The placement half of `cxlbed numa` as a command, for where the machine in question is a guest.

    python -m emulation.numa.witness SIZE_BYTES

Prints JSON: the nodes, the pair chosen, the proof and what speaks against it. Claims no time: in a guest there is none to
be had. Needs the standard library, numpy and sac_runtime.
"""

import json
import sys
from dataclasses import asdict
from typing import Any

from emulation.errors import CxlbedError
from emulation.numa.nodes import choose_pair, find_nodes
from emulation.numa.placement import prove, store_on, threads_on
from sac_runtime.errors import SacError
from sac_runtime.label import Label
from sac_runtime.rows.layout import PAGE_BYTES


def testify(size_bytes: int, local: int | None = None, remote: int | None = None) -> dict[str, Any]:
    """Bind a pool of `size_bytes` and this thread, and tell where both are. Raises MachineError on one node."""
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
        testimony = testify(int(sys.argv[1]))
    except (CxlbedError, SacError) as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    sys.stdout.write(json.dumps(testimony) + "\n")
    return 1 if testimony["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())

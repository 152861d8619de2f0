"""What this machine has that a bed file is held against. Knows Linux; knows no bed."""

import os
from pathlib import Path

from qemu_configs.rules import Machine


def this_machine() -> Machine:
    """Memory and NUMA nodes of the machine that we run on."""
    nodes = list(Path("/sys/devices/system/node").glob("node[0-9]*"))
    return Machine(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), num_numa_nodes=max(1, len(nodes)))

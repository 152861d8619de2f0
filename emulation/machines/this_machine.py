"""What a bed file is held against here: memory, NUMA nodes, timing profiles. Knows Linux; knows no bed."""

import os
from pathlib import Path

from emulation.timing.profile_folders import profile_names
from qemu_configs.rules.bed import Machine


def this_machine() -> Machine:
    """Memory and NUMA nodes of the machine that we run on, and the timing profiles that this user has."""
    nodes = list(Path("/sys/devices/system/node").glob("node[0-9]*"))
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(memory_bytes, max(1, len(nodes)), frozenset(profile_names()))

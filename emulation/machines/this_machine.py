"""What this machine is: memory, NUMA nodes, the timing profiles of its user. Knows Linux; knows no bed."""

import os
from pathlib import Path

from emulation.timing.profile_folders import profile_names
from qemu_configs.rules.bed import Machine

NODE_FOLDER = Path("/sys/devices/system/node")


def this_machine() -> Machine:
    """What a bed file is held against here."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(memory_bytes, num_numa_nodes(), frozenset(profile_names()))


def num_numa_nodes() -> int:
    """How many NUMA nodes there are; 1 where the kernel knows nothing of them. guest.agent.numa_nodes says what each is."""
    return max(1, len(list(NODE_FOLDER.glob("node[0-9]*"))))

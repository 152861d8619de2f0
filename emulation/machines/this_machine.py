"""What this machine is: memory, NUMA nodes, the timing profiles of its user. Knows Linux; knows no bed."""

import os

from emulation.timing.profile_folders import profile_names
from guest.agent.numa_nodes import num_nodes
from qemu_configs.rules.bed import Machine


def this_machine() -> Machine:
    """What a bed file is held against here."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(memory_bytes, num_nodes(), frozenset(profile_names()))

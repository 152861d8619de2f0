"""What bed files are held against: this machine's memory and NUMA nodes, the rules of timing. Knows Linux; no bed."""

import os

from emulation.timing.bed_profiles import profile_problems
from guest.agent.numa_nodes import num_nodes
from qemu_configs.rules.bed import Machine


def this_machine() -> Machine:
    """What a bed file that is to run here is held against."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(memory_bytes, num_nodes(), (profile_problems,))


def any_machine() -> Machine:
    """What a bed file is held against that need not run here."""
    return Machine(more_rules=(profile_problems,))

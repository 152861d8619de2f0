"""What can go wrong in the testbed, one small tree. `exit_status` is what the command line ends with.

Wording: owner, field, value, rule, fix. sac_runtime, guest and qemu_configs have trees of their own: they import none of ours."""


class CxlbedError(Exception):
    """A check failed: wrong bytes, a figure outside its bound."""

    exit_status = 1


class InputError(CxlbedError):
    """Unusable input: an option, a file, a name."""

    exit_status = 2


class MachineError(CxlbedError):
    """This machine cannot do what was asked: a missing program, no space, one NUMA node."""

    exit_status = 3

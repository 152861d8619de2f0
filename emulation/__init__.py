"""The testbed: machines, modelled time, store wrappers, the serving simulation and the command `cxlbed`."""

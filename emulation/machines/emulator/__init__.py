"""QEMU: one of our own as a cached artefact, or the machine's; which of them a bed runs with, and why."""

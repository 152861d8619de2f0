"""Bed files and what turns one into libvirt XML or a QEMU command line. Knows QEMU, starts nothing."""

"""Bed files and what turns one into libvirt XML or a QEMU command line. Knows QEMU, starts nothing."""

from qemu_configs.bedfile import json_schema, load, stock_names

__all__ = ["json_schema", "load", "stock_names"]

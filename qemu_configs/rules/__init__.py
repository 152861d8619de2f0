"""The rules that a bed file must keep, QEMU's, the kernel's and our own."""

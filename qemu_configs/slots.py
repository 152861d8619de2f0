"""What sits where on pcie.0, in every host: render.py writes it, the rules keep a bed's own devices off it."""

# All are said, so that nothing lands on a pxb-cxl and libvirt adds no ports of its own.
DISK_SLOT, RNG_SLOT, NET_SLOT, EXCHANGE_SLOT, FIRST_BRIDGE_SLOT = 0x02, 0x03, 0x04, 0x05, 0x08

"""The life of a bed: libvirt domains, up, status, down, and what this machine can do."""

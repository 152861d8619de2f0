"""What runs in the guest: its image, its init, its provisioning. Knows Debian and SSH, no libvirt."""

"""What runs on a host, in a VM or on metal, copied there whole. Needs the standard library, numpy and sac_runtime alone."""

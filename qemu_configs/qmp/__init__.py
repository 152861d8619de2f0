"""QMP commands that change a running host's devices."""

"""The guest's disk, kernel and initramfs: recipe, build, cache."""

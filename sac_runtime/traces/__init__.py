"""Top-k choices of decode steps: recorded, generated, replayed."""

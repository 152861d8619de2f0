"""A runtime beside the truth: what is written, what must be read, and the comparison."""

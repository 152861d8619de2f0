"""The fetch path on a GPU: hot buffers in HBM, misses loaded from the pool's mapping by a kernel. Needs torch and Triton."""

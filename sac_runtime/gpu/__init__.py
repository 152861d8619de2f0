"""The fetch path on a GPU: hot buffers in HBM, whose misses a kernel loads straight from the pool's mapping. Needs torch and Triton."""

"""Reference runtime of SAC: a disaggregated KV cache that fetches only the top-k entries from a CXL pool.

Imports nothing of the testbed. In a guest it needs numpy and its native library alone.
"""

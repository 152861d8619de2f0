"""The seam between the runtime and memory (`KvStore`), and what stands behind it."""

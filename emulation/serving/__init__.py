"""The serving simulation: workloads, cluster, metrics."""

"""Wrappers around a KvStore that add time, stale caches or faults. Never import machines."""

"""The latency experiment: fetch time by tier, modelled, replayed, injected, and the chase."""

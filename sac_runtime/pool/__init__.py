"""KV blocks in memory that hosts share without coherence."""

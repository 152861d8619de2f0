"""The fetch path of a decode step: score, select, plan, gather, attend, write back."""

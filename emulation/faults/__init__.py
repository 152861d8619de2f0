"""Faults on purpose. `schedule` makes hosts die or meet at a step of one's choosing: it knows stores, never machines."""

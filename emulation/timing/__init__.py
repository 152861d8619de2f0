"""Modelled time: profiles with sources, clocks, links, calibration. Never imports machines."""

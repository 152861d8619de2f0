"""Models beside the published figures that they are fitted to."""

"""Saving what an agent leaves: all that is in its directory, at the rig's own address, under our own settings."""

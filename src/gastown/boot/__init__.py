"""Bringing the town up: the agents of the last container, and a mayor that is ready before anyone asks."""

"""Gastown's town container: one container in which a team of coding agents works."""

__version__ = "0.1.0"

"""Agents' events on their way to the worker."""

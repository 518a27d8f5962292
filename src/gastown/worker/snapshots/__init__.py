"""Agents' conversations (`kilo.db`) at the worker, and the file work that they take."""

"""Agents: their states, their environment, their starts and ends."""

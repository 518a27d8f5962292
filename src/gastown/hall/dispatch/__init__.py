"""Carrying out what the reconciler decides: starts, messages, merges and stops, on the town's container."""

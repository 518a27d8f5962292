"""Merging branches, and pushing the result."""

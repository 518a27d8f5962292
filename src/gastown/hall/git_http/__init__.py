"""Serving the folders that are a town's repositories to its container, over git's smart HTTP."""

"""How a town and its agents leave a container."""

"""Ways to run a town's container."""

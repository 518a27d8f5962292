"""What the container counts and measures: one table of metrics, and the plain objects that hold the figures."""

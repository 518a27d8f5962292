"""The Quart-Trio face of the container: parse, one call, wire model."""

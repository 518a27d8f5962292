"""The text of `/metrics`, and the readings in it."""

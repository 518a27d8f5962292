"""The text of `/metrics` and the readings behind it."""

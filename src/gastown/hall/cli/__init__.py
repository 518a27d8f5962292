"""The commands `gastown up` and `gastown hall`."""

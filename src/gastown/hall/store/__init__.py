"""The hall's memory: one SQLite file, and the town's board in it, one transaction at a time."""

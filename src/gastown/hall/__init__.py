"""The hall: a small orchestrator in one process and one SQLite file, for a town on this machine."""

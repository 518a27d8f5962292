"""The agents' database snapshots: a file each, beside the database, and a row that names it."""

"""Whom processes and files belong to: users, uids, directories handed over safely."""

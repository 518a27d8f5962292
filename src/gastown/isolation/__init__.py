"""The users of processes and files: uids, and directories handed over safely."""

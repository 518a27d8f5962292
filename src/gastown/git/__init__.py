"""git: one runner, then verbs."""

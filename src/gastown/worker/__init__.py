"""The orchestrator's side of the town: what the container asks of it and tells it (contract section 2)."""

"""The wire: models of what the container and the orchestrator say to each other. No I/O."""

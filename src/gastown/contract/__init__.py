"""The wire: models of the messages between container and orchestrator. No I/O."""

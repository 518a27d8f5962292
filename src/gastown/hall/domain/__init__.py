"""What the orchestrator knows, as types and pure functions: no SQL, no HTTP, no clock, no request."""

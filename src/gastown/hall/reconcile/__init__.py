"""What the town does next, as pure functions: no storage, no HTTP, no clock, no language model."""

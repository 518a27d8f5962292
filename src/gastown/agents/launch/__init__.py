"""What an agent's server is started with."""

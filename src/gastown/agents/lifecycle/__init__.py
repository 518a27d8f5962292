"""An agent's life: start, run, restart, idle, end."""

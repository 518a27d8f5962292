"""Small Trio parts without knowledge of agents: a gate, slots, a supervisor, child processes."""

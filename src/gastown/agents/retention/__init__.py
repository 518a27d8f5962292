"""What is kept on the disk of agents that have ended, and for how long."""

"""What stands in for a language model: scripts, the player that answers from one, and answers as frames."""

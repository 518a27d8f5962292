"""An agent's session: its events, turns, prompts and saved conversation."""

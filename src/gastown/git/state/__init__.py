"""What there is in a worktree."""

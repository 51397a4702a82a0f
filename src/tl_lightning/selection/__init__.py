"""Model selection without target labels: scores, selection rules and the collapse filter."""

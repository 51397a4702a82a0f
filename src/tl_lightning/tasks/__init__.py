"""Classification and auxiliary tasks: heads, losses and metrics."""

"""Writing, reading and resuming from checkpoints."""

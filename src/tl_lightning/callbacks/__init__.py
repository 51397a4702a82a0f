"""When things happen in a run."""

"""HTML page of a run."""

"""Lightning callbacks: checkpointing, NaN guard, weight averaging, monitors and reports."""

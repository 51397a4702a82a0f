"""The order of samples, a function of seed and epoch."""

"""Data sets, domains, samples and their order."""

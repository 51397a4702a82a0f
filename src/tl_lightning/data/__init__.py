"""Datasets, domains, transforms, samplers and caches."""
